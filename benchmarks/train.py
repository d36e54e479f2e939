"""Speed of preference training: `make bench-train` writes docs/results/train.json and train.md.

Ours (`python -m training dpo`), a hand-written padded loop in plain torch and TRL's `DPOTrainer` train the same model
on the same pairs. Each runs for one epoch and for two, and what the second epoch costs more is the training itself: its
real tokens (prompt and answer of both rows of each pair) by the CPU seconds of all processes. The rest of the first run
is the start-up, the reference pass included. Ratios hold; absolute numbers are this machine's.
"""

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks.results_page import machine_facts, section
from benchmarks.train_contenders import BATCH, BETA, RATE
from examples.tinyworld.faults import faulty_answer, prompt_pieces, right_answer
from examples.tinyworld.language import random_task
from examples.tinyworld.pretrain import FOLDER, code_adapter
from omnialign.modeling.answers import SUBTASKS
from omnialign.modeling.prompts import render_response
from training import launch, methods, source
from training.batch_order import BatchOrder
from training.example_file import write_examples
from training.examples import Example
from training.spec_file import parse_spec

CONTENDERS = ("ours", "loop", "trl")
RESULTS = Path(__file__).resolve().parent.parent / "docs" / "results"
MAX_LENGTH = 4096


@dataclass(frozen=True)
class Cost:
    """What a run took, over all its processes."""

    cpu_seconds: float
    peak_bytes: int
    """Of the largest process."""


def tinyworld_pairs(count: int, *, seed: int) -> list[Example]:
    """Pairs of the demo's world, subtask by subtask in turn: a faulty answer and the right one, as token ids."""
    draw, adapter, found = random.Random(seed), code_adapter(FOLDER), list[Example]()
    while len(found) < count:
        task = random_task(draw, SUBTASKS[len(found) % len(SUBTASKS)])
        prompt = adapter.encode(render_response(prompt_pieces(task, rendered=False)).turns).ids
        answers = [answer.pieces(rendered=False) for answer in (right_answer(task), faulty_answer(draw, task))]
        found.append(Example(prompt, [list(adapter.encode_answer(answer)) for answer in answers]))
    return found


def long_prompts(count: int, *, prompt_tokens: int, answer_tokens: int, seed: int) -> list[Example]:
    """Random pairs whose prompts are long, as those with pictures and videos are."""
    draw = random.Random(seed)

    def ids(number: int) -> list[int]:
        return [draw.randrange(10, 1000) for _ in range(number)]

    return [Example(ids(prompt_tokens), [ids(answer_tokens), ids(answer_tokens)]) for _ in range(count)]


def real_tokens(examples: Sequence[Example]) -> int:
    """Tokens of both rows of each pair, padding left out."""
    return sum(2 * len(e.prompt) + sum(map(len, e.answers)) for e in examples)


def run(contender: str, examples: Sequence[Example], *, model: Path, steps: int, processes: int, threads: int) -> Cost:
    """Runs a contender from its start to its end. Raises RuntimeError with the end of its log if it fails."""
    with tempfile.TemporaryDirectory(prefix="bench-train-") as scratch:
        folder = Path(scratch)
        if contender == "ours":
            command = _our_command(folder, examples, model=model, steps=steps, processes=processes)
        else:
            write_examples(folder / "examples.arrow", examples)
            program = ["benchmarks.train_contenders", contender, str(model), str(folder / "examples.arrow"), str(steps)]
            torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
            command = [sys.executable, *(torchrun if processes > 1 else []), "-m", *program]
        environment = os.environ | {
            "OMP_NUM_THREADS": str(threads),
            "HF_HUB_OFFLINE": "1",
            "PYTHONPATH": str(Path.cwd()),
        }
        with (folder / "log.txt").open("w+") as log:
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
            # Of the program and of the children that it waited for.
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            if process.returncode:
                log.seek(0)
                raise RuntimeError(f"{contender} failed:\n{log.read()[-3000:]}")
        return Cost(usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)


def _our_command(folder: Path, examples: Sequence[Example], *, model: Path, steps: int, processes: int) -> list[str]:
    document = {
        "job": "projects/default/trainingJobs/bench",
        "dataset": "projects/default/datasets/bench",
        "base_model_dir": str(model),
        "output_dir": str(folder),
        "cache_dir": str(folder / "cache"),
        "hyperparameters": {
            "batch_size": BATCH,
            "learning_rate": RATE,
            "beta": BETA,
            "max_steps": steps,
            "max_length": MAX_LENGTH,
        },
        "distribution": {"num_processes": processes},
    }
    spec = parse_spec(document, method="dpo")
    length = methods.complete(spec, num_processes=processes).max_length
    write_examples(source.cache_path(spec, max_length=length), examples)
    (folder / "job.yaml").write_text(yaml.safe_dump(document))
    if processes == 1:
        return [sys.executable, "-m", "training", "dpo", "--spec", str(folder / "job.yaml")]
    return launch.command("dpo", spec_path=folder / "job.yaml", num_processes=processes)


def compare(examples: Sequence[Example], *, model: Path, processes: int, repeats: int) -> dict[str, Any]:
    """Real tokens per CPU second of each contender, what its start costs, and its peak memory; medians."""
    epoch = len(examples) // BATCH
    examples = examples[: epoch * BATCH]
    found: dict[str, dict[str, list[float]]] = {name: {} for name in CONTENDERS}
    for _ in range(repeats):
        for name in CONTENDERS:
            one, two = (
                run(name, examples, model=model, steps=count * epoch, processes=processes, threads=1)
                for count in (1, 2)
            )
            training = two.cpu_seconds - one.cpu_seconds
            measured = {
                "tokens_per_cpu_second": real_tokens(examples) / training,
                "epoch_cpu_seconds": training,
                "start_cpu_seconds": one.cpu_seconds - training,
                "peak_mib": two.peak_bytes / 2**20,
            }
            print(f"{processes} process(es), {name}: {measured}", flush=True)
            for key, value in measured.items():
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
    """All measurements."""
    with tempfile.TemporaryDirectory(prefix="bench-train-model-") as scratch:
        model = Path(scratch) / "model"
        shutil.copytree(FOLDER, model)
        config = json.loads((model / "config.json").read_text())
        (model / "config.json").write_text(json.dumps(config | {"max_position_embeddings": MAX_LENGTH}))
        mix = tinyworld_pairs(given.pairs, seed=given.seed)
        shared = long_prompts(given.long_pairs, prompt_tokens=1000, answer_tokens=100, seed=given.seed)
        result: dict[str, Any] = {
            "title": "Preference training",
            "about": " ".join(str(__doc__).split("\n\n")[1].split()),
        }
        for processes in (1, 2):
            result[f"mix_{processes}"] = compare(mix, model=model, processes=processes, repeats=given.repeats)
        result["shared_prompt_1"] = compare(shared, model=model, processes=1, repeats=given.repeats)

    def ratio(case: str, other: str) -> float:
        speeds = result[case]
        return float(speeds["ours"]["tokens_per_cpu_second"] / speeds[other]["tokens_per_cpu_second"])

    result["mix_vs_loop"], result["mix_vs_trl"] = ratio("mix_1", "loop"), ratio("mix_1", "trl")
    result["shared_prompt_vs_loop"] = ratio("shared_prompt_1", "loop")
    result["balance_8_ranks"] = balance()
    return result


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=400, help="pairs of the tiny world (default %(default)s)")
    parser.add_argument("--long-pairs", type=int, default=64, help="pairs with long prompts (default %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="repeats of each run (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args()
    entry = {"machine": machine_facts(), "result": measure(given)}
    (given.results / "train.json").write_text(json.dumps(entry, indent=2) + "\n")
    (given.results / "train.md").write_text(section("train", entry))
    print(section("train", entry))


if __name__ == "__main__":
    main()
