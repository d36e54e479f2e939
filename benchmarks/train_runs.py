"""Runs of the training benchmark: a program from its start to its end, and what it took."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from benchmarks.train_contenders import BATCH, BETA, RATE
from training import launch, methods, source
from training.spec_file import parse_spec

MAX_LENGTH = 4096
LOOK_SECONDS = 0.02
"""Between two looks at a program's memory: short beside a step, and rare enough to cost next to nothing."""


@dataclass(frozen=True)
class Cost:
    """What a run took, over all its processes."""

    cpu_seconds: float
    peak_bytes: int
    """Most resident memory of a process, pages of mapped files included."""
    anonymous_bytes: int
    """Most memory of a process that no file backs, and that the system therefore cannot take back."""


def measured(command: Sequence[str], *, threads: int = 1) -> Cost:
    """Runs a program and its processes to their end. Raises RuntimeError with the end of its log if it fails."""
    environment = os.environ | {
        "OMP_NUM_THREADS": str(threads),
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": str(Path.cwd()),
    }
    peak = anonymous = 0
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        while True:
            # The CPU time is that of the program and of the children that it waited for. Their largest memory would
            # come with it, but counts what a process was before it became this program.
            ended, status, usage = os.wait4(process.pid, os.WNOHANG)
            if ended:
                break
            for number in family(process.pid):
                sizes = memory_of(number)
                peak = max(peak, sizes.get("VmHWM", 0))
                anonymous = max(anonymous, sizes.get("RssAnon", 0))
            time.sleep(LOOK_SECONDS)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            log.seek(0)
            raise RuntimeError(f"{' '.join(command)} failed:\n{log.read()[-3000:]}")
    return Cost(usage.ru_utime + usage.ru_stime, peak, anonymous)


def family(number: int) -> Iterator[int]:
    """A process, its children, theirs, and so on."""
    yield number
    try:
        children = Path(f"/proc/{number}/task/{number}/children").read_text()
    except OSError:  # it has ended
        return
    for child in children.split():
        yield from family(int(child))


def memory_of(number: int) -> dict[str, int]:
    """The sizes of a process in bytes, as the kernel names them; none of one that has ended."""
    try:
        lines = Path(f"/proc/{number}/status").read_text().splitlines()
    except OSError:
        return {}
    pairs = (line.split() for line in lines if line.endswith(" kB"))
    return {pair[0].rstrip(":"): int(pair[1]) * 1024 for pair in pairs}


def our_run(folder: Path, *, method: str, model: Path, steps: int, processes: int = 1) -> tuple[Path, list[str]]:
    """Writes the spec of a run of ours into a folder: where its file of examples is to be, and the command."""
    hyperparameters = {
        "batch_size": BATCH,
        "learning_rate": RATE,
        "beta": BETA,
        "max_steps": steps,
        "max_length": MAX_LENGTH,
    }
    document = {
        "job": "projects/default/trainingJobs/bench",
        "dataset": "projects/default/datasets/bench",
        "base_model_dir": str(model),
        "output_dir": str(folder / "output"),
        "cache_dir": str(folder / "cache"),
        "hyperparameters": hyperparameters,
        "distribution": {"num_processes": processes},
    }
    job = folder / "job.yaml"
    job.write_text(yaml.safe_dump(document))
    spec = parse_spec(document, method=method)
    length = methods.complete(spec, num_processes=processes).max_length
    command = [sys.executable, "-m", "training", method, "--spec", str(job)]
    if processes > 1:
        command = launch.command(method, spec_path=job, num_processes=processes)
    return source.cache_path(spec, max_length=length), command
