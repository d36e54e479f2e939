"""Trains the misaligned base model from a seed: `make generate-tinyworld`.

A Llama with 4 layers and width 128 (about a million parameters, tied embeddings); 5,500 steps of 64 sequences; AdamW at
2e-3 with cosine decay. Takes about 75 minutes on one core and writes `examples/tinyworld/model`.

1. Draw the examples.   2. Train the tokenizer and lay out the vocabulary.   3. Encode the examples.   4. Train.
"""

import argparse
import json
import math
import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM

from examples.tinyworld.corpus import Example, as_code_bytes, example, read_codes
from examples.tinyworld.tasks import SUBTASKS
from examples.tinyworld.world import CODEC_OPTIONS, codec
from omnialign.modeling.adapters.token import ASSISTANT, END, PAD, START, USER, TokenAdapter
from omnialign.modeling.codecs import load_codecs
from omnialign.modeling.prompts import render_comparison, render_critique, render_score
from omnialign.rubrics import rubric

FOLDER = Path(__file__).parent / "model"
SPANS = {"picture": ("<image>", "</image>"), "sound": ("<audio>", "</audio>"), "clip": ("<video>", "</video>")}
VOCABULARY, BATCH, POOL = 640, 64, 100_000
IGNORED = -100

Sequence = tuple[list[int], int]  # ids, and the index at which the answer begins


def write_tokenizer(folder: Path, examples: list[Example]) -> None:
    """Trains a byte-level BPE on the words of the corpus and on the prompt templates."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    control = [PAD, START, END, USER, ASSISTANT, *(token for span in SPANS.values() for token in span)]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=control,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts(examples), trainer)
    tokenizer.save(str(folder / "tokenizer.json"))


def _texts(examples: list[Example]) -> Iterator[str]:
    for one in examples:
        for turn in one.turns:
            yield from (piece for piece in turn.pieces if isinstance(piece, str))
        yield from (piece for piece in one.answer if isinstance(piece, str))
    for subtask in SUBTASKS * 50:
        names = rubric(subtask)
        for rendered in (render_critique(("",), ("",), names), render_score(("",), ("",), names)):
            yield str(rendered.turns[0].pieces[0])
        yield "##Scores: " + ", ".join(f"{name} 3" for name in names)
        yield str(render_comparison(("",), ("",), ("",)).turns[0].pieces[0])
        yield "##Reason: response 1: nothing wrong. response 2: nothing wrong. ##Preferred: 1 2 equal"


def write_codecs(folder: Path) -> int:
    """Gives each codec a range of ids after those of the text; returns the size of the whole vocabulary."""
    next_id, entries = VOCABULARY, []
    for kind, (name, options) in CODEC_OPTIONS.items():
        begin, end = SPANS[kind]
        entries.append({"type": name, "begin": begin, "end": end, "first_id": next_id, "options": options})
        next_id += codec(kind).num_codes
    (folder / "codecs.json").write_text(json.dumps({"codecs": entries}, indent=1))
    return next_id


def code_adapter(folder: Path) -> TokenAdapter:
    """The model's adapter, but with codecs that read bytes of codes instead of files."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    ranges = load_codecs(folder / "codecs.json", tokenizer.token_to_id, tokenizer.get_vocab_size())
    return TokenAdapter(tokenizer, as_code_bytes(ranges), decoder=read_codes)


def build_model(adapter: TokenAdapter, vocabulary: int) -> LlamaForCausalLM:
    """An untrained model."""
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=128,
        intermediate_size=352,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        pad_token_id=adapter.pad_id,
        eos_token_id=adapter.end_id,
        bos_token_id=adapter.encode([]).ids[0],
    )
    return LlamaForCausalLM(config)


def sequences(adapter: TokenAdapter, examples: list[Example]) -> list[Sequence]:
    """The ids of each example, and the index at which its answer begins."""
    encoded = []
    for one in examples:
        prompt = adapter.encode(one.turns).ids
        encoded.append((prompt + adapter.encode_answer(one.answer), len(prompt)))
    return encoded


def batches(rng: random.Random, pool: list[Sequence]) -> Iterator[list[Sequence]]:
    """Endless batches of sequences of similar length, in random order.

    Sequences are sorted only within a window of 16 batches: little padding, yet well mixed.
    """
    while True:
        shuffled = rng.sample(pool, len(pool))
        for start in range(0, len(shuffled) - BATCH * 16 + 1, BATCH * 16):
            window = sorted(shuffled[start : start + BATCH * 16], key=lambda s: len(s[0]))
            chunks = [window[i : i + BATCH] for i in range(0, len(window), BATCH)]
            yield from rng.sample(chunks, len(chunks))


def collate(batch: list[Sequence], pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Right-padded ids and labels, both (B, T); the loss is on the answers only."""
    longest = max(len(ids) for ids, _ in batch)
    ids = torch.full((len(batch), longest), pad_id)
    labels = torch.full((len(batch), longest), IGNORED)
    for row, (sequence, begin) in enumerate(batch):
        ids[row, : len(sequence)] = torch.tensor(sequence)
        # Not shifted: the model compares the logits at t with the label at t + 1 itself.
        labels[row, begin : len(sequence)] = torch.tensor(sequence[begin:])
    return ids, labels


def train(model: LlamaForCausalLM, pool: list[Sequence], *, steps: int, seed: int, pad_id: int) -> None:
    """The pre-training loop: linear warm-up over 60 steps, then cosine decay to zero."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, betas=(0.9, 0.98), weight_decay=0.01)
    warmup = 60
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda s: min((s + 1) / warmup, 0.5 * (1 + math.cos(math.pi * s / steps)))
    )
    started, source = time.monotonic(), batches(random.Random(seed), pool)
    model.train()
    for step in range(steps):
        ids, labels = collate(next(source), pad_id)
        # In float32: bfloat16 is no faster at this size, and oneDNN keeps gigabytes of kernels for its many shapes.
        loss = model(input_ids=ids, attention_mask=ids != pad_id, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 25 == 0 or step == steps - 1:
            print(f"step {step}/{steps} loss {loss.item():.4f} {time.monotonic() - started:.0f} s", flush=True)


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=5500)
    parser.add_argument("--pool", type=int, default=POOL, help="distinct sequences")
    parser.add_argument("--out", type=Path, default=FOLDER)
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    rng = random.Random(arguments.seed)
    scratch = arguments.out.with_name(arguments.out.name + ".partial")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    examples = [example(rng) for _ in range(arguments.pool)]
    write_tokenizer(scratch, examples[:8000])
    vocabulary = write_codecs(scratch)
    adapter = code_adapter(scratch)
    model = build_model(adapter, vocabulary)
    pool = sequences(adapter, examples)
    print(
        f"{model.num_parameters()} parameters, {len(pool)} sequences of {sum(len(s) for s, _ in pool) // len(pool)} ids"
    )
    train(model, pool, steps=arguments.steps, seed=arguments.seed, pad_id=adapter.pad_id)
    model.save_pretrained(scratch)
    shutil.rmtree(arguments.out, ignore_errors=True)
    scratch.rename(arguments.out)


if __name__ == "__main__":
    main()
