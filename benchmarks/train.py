"""Speed and memory of preference training: `make bench-train` writes docs/results/train.json and train.md.

Ours (`python -m training dpo`), a hand-written padded loop in plain torch and TRL's `DPOTrainer` train the same model
on the same pairs, in float32 and with one thread per process. `mix` are pairs of the demo's world, `shared_prompt`
pairs of 1,000 prompt and 100 answer tokens; the number behind is that of processes. Each runs for one epoch and for
three, and what the further ones cost is the training itself: its real tokens (prompt and answer of both rows of each
pair) by the CPU seconds of all processes. The rest of the first run is the start, which reads the pairs and loads and
saves the model, and scores all pairs by the reference in ours and in the loop (TRL does it again in every step, unless
asked). `X_vs_Y` is how many times as fast as Y ours is on X, `start_cpu_seconds` is that of ours on `mix` in one
process. Peaks are of the largest process, and all numbers are medians of `repeats`.

`balance_8_ranks` is the mean load of 8 ranks by the largest one, over the steps of an epoch of rows of log-normal
lengths. `memory` has runs of ours of 8 steps (`python -m training simpo`, which needs no reference) on 1,000 to
200,000 pairs of 200 prompt and 50 answer tokens. `anonymous_mib` is the peak of what no file backs, looked at 50 times
a second, and `memory_ratio_200k_to_1k` is made from it: pages of the mapped file of examples, which `peak_mib` counts
too, are the system's to take back. Ratios hold; absolute numbers are this machine's.
"""

import argparse
import json
import random
import shutil
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.__main__ import RESULTS, write
from benchmarks.results_page import machine_facts, section
from benchmarks.train_contenders import BATCH
from benchmarks.train_memory import by_examples, random_pairs
from benchmarks.train_runs import MAX_LENGTH, Cost, measured, our_run
from examples.tinyworld.faults import faulty_answer, prompt_pieces, right_answer
from examples.tinyworld.language import random_task
from examples.tinyworld.pretrain import FOLDER, code_adapter
from omnialign.modeling.prompts import render_response
from omnialign.rubrics import SUBTASKS
from training.batch_order import BatchOrder
from training.example_file import write_examples
from training.examples import Example

TITLE = "# Preference training\n\nWritten by `make bench-train`; do not edit.\n\n"
CONTENDERS = ("ours", "loop", "trl")
EPOCHS = (1, 3)
AIMS = {
    "mix_vs_loop": "at least 1.3",
    "shared_prompt_vs_loop": "at least 1.7",
    "balance_8_ranks": "at least 0.85",
    "start_cpu_seconds": "at most 13, half of what it was",
    "memory_ratio_200k_to_1k": "about 1",
}


def tinyworld_pairs(count: int, *, seed: int) -> list[Example]:
    """Pairs of the demo's world, subtask by subtask in turn: a faulty answer and the right one, as token ids."""
    draw, adapter, found = random.Random(seed), code_adapter(FOLDER), list[Example]()
    while len(found) < count:
        task = random_task(draw, SUBTASKS[len(found) % len(SUBTASKS)])
        prompt = adapter.encode(render_response(prompt_pieces(task, rendered=False)).turns).ids
        answers = [answer.pieces(rendered=False) for answer in (right_answer(task), faulty_answer(draw, task))]
        found.append(Example(prompt, [list(adapter.encode_answer(answer)) for answer in answers]))
    return found


def real_tokens(examples: Sequence[Example]) -> int:
    """Tokens of both rows of each pair, padding left out."""
    return sum(2 * len(e.prompt) + sum(map(len, e.answers)) for e in examples)


def run(contender: str, examples: Sequence[Example], *, model: Path, steps: int, processes: int) -> Cost:
    """Runs a contender from its start to its end."""
    with tempfile.TemporaryDirectory(prefix="bench-train-") as scratch:
        folder = Path(scratch)
        if contender == "ours":
            path, command = our_run(folder, method="dpo", model=model, steps=steps, processes=processes)
        else:
            path = folder / "examples.arrow"
            program = ["benchmarks.train_contenders", contender, str(model), str(path), str(steps)]
            torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
            command = [sys.executable, *(torchrun if processes > 1 else []), "-m", *program]
        write_examples(path, examples)
        return measured(command)


def compare(examples: Sequence[Example], *, model: Path, processes: int, repeats: int) -> dict[str, Any]:
    """Real tokens per CPU second of each contender, what its start costs, and its peak memory; medians."""
    epoch = len(examples) // BATCH
    examples = examples[: epoch * BATCH]
    found: dict[str, dict[str, list[float]]] = {name: {} for name in CONTENDERS}
    for _ in range(repeats):
        for name in CONTENDERS:
            few, many = (run(name, examples, model=model, steps=count * epoch, processes=processes) for count in EPOCHS)
            training = (many.cpu_seconds - few.cpu_seconds) / (EPOCHS[1] - EPOCHS[0])
            measures = {
                "tokens_per_cpu_second": real_tokens(examples) / training,
                "epoch_cpu_seconds": training,
                "start_cpu_seconds": few.cpu_seconds - EPOCHS[0] * training,
                "peak_mib": many.peak_bytes / 2**20,
            }
            print(f"{processes} process(es), {name}: {measures}", flush=True)
            for key, value in measures.items():
                found[name].setdefault(key, []).append(value)
    return {
        name: {key: statistics.median(values) for key, values in measures.items()} for name, measures in found.items()
    }


def balance(*, ranks: int = 8, rows: int = 4096, seed: int = 0) -> float:
    """Useful share of the ranks' time on log-normal lengths: mean load by largest load, over the steps of an epoch."""
    draw = random.Random(seed)
    lengths = [max(8, round(draw.lognormvariate(5.5, 0.9))) for _ in range(rows)]
    options = {"batch_size": 128, "num_passes": 1, "num_ranks": ranks, "seed": seed}
    orders = [list(BatchOrder(lengths, rank=rank, **options)) for rank in range(ranks)]
    steps = [[sum(lengths[row] for row in batch if row < rows) for batch in step] for step in zip(*orders, strict=True)]
    return float(sum(map(sum, steps)) / (ranks * sum(map(max, steps))))


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """All measurements: what the aims are about, the aims, and what it is made from."""
    with tempfile.TemporaryDirectory(prefix="bench-train-model-") as scratch:
        model = Path(scratch) / "model"
        shutil.copytree(FOLDER, model)
        config = json.loads((model / "config.json").read_text())
        (model / "config.json").write_text(json.dumps(config | {"max_position_embeddings": MAX_LENGTH}))
        mix = tinyworld_pairs(given.pairs, seed=given.seed)
        long = list(random_pairs(given.long_pairs, prompt_tokens=1000, answer_tokens=100, seed=given.seed))
        cases = {
            "mix_1": compare(mix, model=model, processes=1, repeats=given.repeats),
            "mix_2": compare(mix, model=model, processes=2, repeats=given.repeats),
            "shared_prompt_1": compare(long, model=model, processes=1, repeats=given.repeats),
        }
        memory = by_examples(model)
    return {
        "title": "Ours, a padded loop and TRL on the same pairs",
        "about": " ".join(str(__doc__).split("\n\n", 1)[1].split()),
        **headline(cases, memory),
        "balance_8_ranks": balance(),
        "aims": AIMS,
        "repeats": given.repeats,
        **cases,
        "memory": memory,
    }


def headline(cases: Mapping[str, Any], memory: Mapping[str, Any]) -> dict[str, float]:
    """What the aims are about, from the cases by contender and the memory by number of examples."""

    def ratio(case: str, other: str) -> float:
        speed, others = (cases[case][name]["tokens_per_cpu_second"] for name in ("ours", other))
        return float(speed / others)

    least, *_, most = (peaks["anonymous_mib"] for peaks in memory.values())
    return {
        "mix_vs_loop": ratio("mix_1", "loop"),
        "mix_vs_trl": ratio("mix_1", "trl"),
        "mix_2_processes_vs_loop": ratio("mix_2", "loop"),
        "mix_2_processes_vs_trl": ratio("mix_2", "trl"),
        "shared_prompt_vs_loop": ratio("shared_prompt_1", "loop"),
        "shared_prompt_vs_trl": ratio("shared_prompt_1", "trl"),
        "start_cpu_seconds": cases["mix_1"]["ours"]["start_cpu_seconds"],
        "memory_ratio_200k_to_1k": most / least,
    }


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=400, help="pairs of the tiny world (default %(default)s)")
    parser.add_argument("--long-pairs", type=int, default=32, help="pairs with long prompts (default %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="repeats of each run (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args()
    facts, found = machine_facts(), measure(given)
    page = TITLE + section("train", {"machine": facts, "result": found})
    write(given.results / "train.json", json.dumps({"machine": facts, **found}, indent=2) + "\n")
    write(given.results / "train.md", page)
    print(page)


if __name__ == "__main__":
    main()
