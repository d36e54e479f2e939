"""What it saves to run the prompt of a pair once, with its pictures: `python -m benchmarks.shared_prompt`.

Random models of two shapes, a picture or two in every prompt: LLaVA (CLIP and Llama, 576 tokens for each picture) and
Qwen2.5-VL (positions in time, height and width). A pass is forward and backward of the log-probabilities of both
answers of each pair; as in a job, the towers do not learn. It runs on padded rows, on packed rows of which none share a
prompt, and on packed rows that do; the CPU seconds of each are those of the fastest of a few passes, taken in turn.
"""

import argparse
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
import transformers

from training import fused_lm_head
from training.batches import MEDIA_ROWS, pad
from training.media import MediaRows
from training.packing import IGNORED
from training.tuning import freeze

PAIRS, TEXT_TOKENS, ANSWER_TOKENS = 4, 40, 80
IMAGE, VISION_START = 10, 11
WIDTH, LAYERS, VOCABULARY = 256, 4, 4000
TEXT = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "intermediate_size": 4 * WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
Batch = dict[str, Any]


def llava() -> tuple[transformers.PreTrainedModel, Batch]:
    """A LLaVA and a batch of pairs with one or two pictures of 336 x 336 pixels."""
    tower = {"hidden_size": WIDTH, "intermediate_size": 4 * WIDTH, "num_hidden_layers": LAYERS, "image_size": 336}
    config = transformers.LlavaConfig(
        vision_config={**tower, "num_attention_heads": 4, "patch_size": 14, "model_type": "clip_vision_model"},
        text_config={**TEXT, "model_type": "llama"},
        image_token_index=IMAGE,
        image_seq_length=576,
    )
    numbers = [1 + pair % 2 for pair in range(PAIRS)]
    pictures = [torch.randn(number, 3, 336, 336) for number in numbers]
    batch = pairs([[576] * number for number in numbers], {"pixel_values": pictures})
    return transformers.LlavaForConditionalGeneration(config), batch


def qwen() -> tuple[transformers.PreTrainedModel, Batch]:
    """A Qwen2.5-VL and a batch of pairs with one or two pictures of 280 to 560 pixels a side."""
    tower = {"depth": LAYERS, "hidden_size": WIDTH, "intermediate_size": 4 * WIDTH, "num_heads": 4}
    config = transformers.Qwen2_5_VLConfig(
        vision_config={**tower, "out_hidden_size": WIDTH, "patch_size": 14},
        text_config={**TEXT, "rope_parameters": {"rope_type": "default", "mrope_section": [8, 12, 12]}},
        image_token_id=IMAGE,
        video_token_id=IMAGE + 2,
        vision_start_token_id=VISION_START,
        vision_end_token_id=VISION_START + 2,
    )
    grids = [[[1, 20 + 10 * (pair % 3), 20 + 4 * at] for at in range(1 + pair % 2)] for pair in range(PAIRS)]
    grids = [[[time, rows // 2 * 2, columns // 2 * 2] for time, rows, columns in own] for own in grids]
    features = {
        "pixel_values": [
            torch.randn(sum(rows * columns for _, rows, columns in own), 3 * 2 * 14 * 14) for own in grids
        ],
        "image_grid_thw": [torch.tensor(own) for own in grids],
    }
    batch = pairs([[rows * columns // 4 for _, rows, columns in own] for own in grids], features)
    batch["mm_token_type_ids"] = (batch["input_ids"] == IMAGE).long()
    return transformers.Qwen2_5_VLForConditionalGeneration(config), batch


def pairs(pictures: list[list[int]], features: Mapping[str, list[torch.Tensor]]) -> Batch:
    """A batch of pairs, from the tokens of the pictures of each prompt and its features."""

    def words(number: int) -> list[int]:
        return torch.randint(100, VOCABULARY, (number,)).tolist()

    prompts = [
        [*(token for size in sizes for token in (VISION_START, *[IMAGE] * size)), *words(TEXT_TOKENS)]
        for sizes in pictures
    ] * 2
    answers = [words(ANSWER_TOKENS - 5 * (row % 4)) for row in range(len(prompts))]
    rows = [[*prompt, *answer] for prompt, answer in zip(prompts, answers, strict=True)]
    labels = [[IGNORED] * len(prompt) + answer for prompt, answer in zip(prompts, answers, strict=True)]
    owners = {
        name: [row for row in range(len(rows)) for _ in range(len(items[row % len(items)]))]
        for name, items in features.items()
    }
    return {
        "input_ids": pad(rows, value=0),
        "attention_mask": pad([[1] * len(row) for row in rows], value=0),
        "labels": pad(labels, value=IGNORED),
        **{name: torch.cat([*items, *items]) for name, items in features.items()},
        MEDIA_ROWS: MediaRows(tuple(range(len(pictures))) * 2, owners),
    }


def passes(model: transformers.PreTrainedModel, batch: Batch) -> dict[str, Callable[[], float]]:
    """The three ways to run a batch; each returns the loss and leaves the gradient on the model."""
    from trl.trainer.utils import add_fused_lm_head

    forward = model.forward
    alone = {name: value for name, value in batch.items() if name != MEDIA_ROWS}

    def run(add_head: Callable[..., None], inputs: Batch) -> float:
        model.__dict__.pop("forward", None)
        assert model.forward == forward
        model.config.get_text_config()._attn_implementation = "sdpa"
        add_head(model)
        model.zero_grad()
        chosen, rejected = model(**inputs, use_cache=False, fused_lm_head=True).log_probs.sum(1).chunk(2)
        loss = -torch.nn.functional.logsigmoid(0.01 * (chosen - rejected)).mean()
        torch.autograd.backward(loss)
        return loss.item()

    return {
        "padded": lambda: run(add_fused_lm_head, alone),
        "packed": lambda: run(fused_lm_head.add_head, alone),
        "shared": lambda: run(fused_lm_head.add_head, batch),
    }


def main() -> None:
    """Prints the CPU seconds of each way, and how they compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=3)
    repetitions = parser.parse_args().repetitions
    torch.manual_seed(0)
    fused_lm_head.install()
    for make in (llava, qwen):
        model, batch = make()
        freeze(model, towers=True)
        ways = passes(model, batch)
        seconds = {name: list[float]() for name in ways}
        for _ in range(repetitions):
            for name, run in ways.items():
                begin = time.process_time()
                loss = run()
                seconds[name].append(time.process_time() - begin)
                print(f"{make.__name__} {name}: loss {loss:.6f}, {seconds[name][-1]:.2f} CPU seconds", flush=True)
        best = {name: min(found) for name, found in seconds.items()}
        print(
            f"{make.__name__}: {int(batch['attention_mask'].sum())} tokens in {len(batch['input_ids'])} rows; padded / "
            f"shared {best['padded'] / best['shared']:.2f}, padded / packed {best['padded'] / best['packed']:.2f}"
        )


if __name__ == "__main__":
    main()
