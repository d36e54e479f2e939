"""How much memory a rank of ours takes by the number of examples in its data.

Each run is the trainer itself on a file of its own, of pairs that all have the same lengths: what differs between runs
is their number. The method is `simpo`, since dpo would first score all of them.
"""

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from benchmarks.train_runs import measured, our_run
from training.example_file import write_examples
from training.examples import Example

SIZES = (1_000, 20_000, 200_000)
STEPS = 8
PROMPT_TOKENS, ANSWER_TOKENS = 200, 50


def random_pairs(count: int, *, prompt_tokens: int, answer_tokens: int, seed: int) -> Iterator[Example]:
    """Pairs of random ids, one at a time."""
    draw = np.random.default_rng(seed)
    for _ in range(count):
        prompt, chosen, rejected = (
            draw.integers(10, 1000, size).tolist() for size in (prompt_tokens, answer_tokens, answer_tokens)
        )
        yield Example(prompt, [chosen, rejected])


def by_examples(model: Path, *, sizes: Sequence[int] = SIZES, steps: int = STEPS) -> dict[str, dict[str, float]]:
    """The peaks of a run's memory for each number of examples, in MiB: what no file backs, and all that is resident."""
    found = {}
    for count in sizes:
        with tempfile.TemporaryDirectory(prefix="bench-train-memory-") as scratch:
            path, command = our_run(Path(scratch), method="simpo", model=model, steps=steps)
            pairs = random_pairs(count, prompt_tokens=PROMPT_TOKENS, answer_tokens=ANSWER_TOKENS, seed=0)
            write_examples(path, pairs)
            cost = measured(command)
        found[f"{count:,}"] = {
            "anonymous_mib": cost.anonymous_bytes / 2**20,
            "peak_mib": cost.peak_bytes / 2**20,
        }
        print(f"{count:,} examples: {found[f'{count:,}']}", flush=True)
    return found
