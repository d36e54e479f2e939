"""What a user would run in place of our trainer: a padded loop in plain torch, and TRL's `DPOTrainer`.

`python -m benchmarks.train_contenders loop|trl FOLDER EXAMPLES STEPS`, under torchrun for several processes. Both learn
from the same token ids, in float32 and with AdamW. The loop computes the reference's log-probabilities once, TRL in
every step, as it does unless told otherwise.
"""

import argparse
import os
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.nn.functional import logsigmoid
from transformers import AutoModelForCausalLM

from training.example_file import Examples
from training.examples import Example

BATCH, RATE, BETA, SEED = 16, 1e-4, 0.3, 0


def padded(pairs: Sequence[Example]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Ids, attention mask and answer mask of all chosen and then all rejected rows, each (2 pairs, longest)."""
    answers = [(pair.prompt, pair.answers[side]) for side in (0, 1) for pair in pairs]
    longest = max(len(prompt) + len(answer) for prompt, answer in answers)
    ids, mask = (torch.zeros(len(answers), longest, dtype=torch.long) for _ in range(2))
    is_answer = torch.zeros(len(answers), longest, dtype=torch.bool)
    for row, (prompt, answer) in enumerate(answers):
        size = len(prompt) + len(answer)
        ids[row, :size] = torch.tensor(prompt + answer)
        mask[row, :size] = 1
        is_answer[row, len(prompt) : size] = True
    return ids, mask, is_answer


def log_probs(model: Any, pairs: Sequence[Example]) -> torch.Tensor:
    """Summed log-probabilities of the answers, (2 pairs,)."""
    ids, mask, is_answer = padded(pairs)
    scores = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1].log_softmax(-1)
    found: torch.Tensor = scores.gather(-1, ids[:, 1:, None])[..., 0].masked_fill(~is_answer[:, 1:], 0).sum(1)
    return found


def loop(folder: Path, examples: Sequence[Example], steps: int) -> None:
    """A hand-written DPO loop: random batches, padded to their longest row; gradients averaged over processes."""
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if world > 1:
        dist.init_process_group("gloo")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.0)
    micro = BATCH // world
    with torch.no_grad():
        batches = [range(at, min(at + micro, len(examples))) for at in range(rank * micro, len(examples), BATCH)]
        reference = torch.zeros(2, len(examples))
        for batch in batches:
            reference[:, batch] = log_probs(model, [examples[i] for i in batch]).view(2, -1)
        if world > 1:
            dist.all_reduce(reference)
    draw, order = random.Random(SEED), list[int]()
    for _ in range(steps):
        if len(order) < BATCH:
            order = draw.sample(range(len(examples)), len(examples))
        taken, order = order[:BATCH], order[BATCH:]
        mine = taken[rank::world]
        policy = log_probs(model, [examples[i] for i in mine]).view(2, -1)
        chosen, rejected = policy - reference[:, mine]
        loss = -logsigmoid(BETA * (chosen - rejected)).mean()
        torch.autograd.backward(loss)
        for parameter in model.parameters() if world > 1 else ():
            dist.all_reduce(parameter.grad)
            parameter.grad /= world
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()


def trl(folder: Path, examples: Sequence[Example], steps: int) -> None:
    """TRL's trainer as it comes, but for the tokenisation: it gets ids."""
    from datasets import Dataset
    from transformers import PreTrainedTokenizerFast
    from trl import DPOConfig, DPOTrainer

    class FromIds(DPOTrainer):  # type: ignore[misc]
        def _prepare_dataset(self, dataset: Dataset, *args: Any, **kwargs: Any) -> Dataset:
            return dataset

    world = int(os.environ.get("WORLD_SIZE", "1"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    tokenizer.pad_token = tokenizer.eos_token = tokenizer.convert_ids_to_tokens(0)
    rows = [{"prompt_ids": e.prompt, "chosen_ids": e.answers[0], "rejected_ids": e.answers[1]} for e in examples]
    arguments = DPOConfig(
        output_dir=str(folder.parent / "trl"),
        per_device_train_batch_size=BATCH // world,
        learning_rate=RATE,
        beta=BETA,
        max_steps=steps,
        max_length=None,
        bf16=False,
        gradient_checkpointing=False,
        use_cpu=True,
        save_strategy="no",
        report_to=[],
        seed=SEED,
        disable_tqdm=True,
    )
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    trainer = FromIds(model=model, args=arguments, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)
    trainer.train()


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("contender", choices=("loop", "trl"))
    parser.add_argument("folder", type=Path, help="model folder")
    parser.add_argument("examples", type=Path)
    parser.add_argument("steps", type=int)
    given = parser.parse_args()
    {"loop": loop, "trl": trl}[given.contender](given.folder, list(Examples(given.examples)), given.steps)


if __name__ == "__main__":
    main()
