"""Real runs: full disks, checkpoints by time, and losses that do not depend on how a batch is cut."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.training.forked_ranks import run_ranks
from tests.training.test_resume import prepare, tiny_model  # noqa: F401
from training import launch, methods
from training.launch import EXIT_CRASHED, EXIT_FAILED, read_failure

MEASURED = {"sft": (), "kto": ("reference_point",), "sdpo": ("teacher_agreement",)}
"""What a method's steps measure, apart from those on pairs."""
FILE_BYTES = 100_000
"""Less than a checkpoint's optimiser state, more than the log of steps."""


def run(folder: Path, method: str = "dpo", *, num_processes: int = 1) -> int | None:
    """Runs what was prepared in a folder, and returns the exit code, which is that of every rank."""
    (code,) = set(run_ranks(folder, method, num_processes=num_processes))
    return code


def run_on_small_disk(folder: Path) -> int:
    """Runs a `dpo` in a process whose files are of at most `FILE_BYTES`, and returns the exit code."""
    # Not a module's compiled form: Python would keep one that the limit cut off.
    environment = launch.environment(os.environ, num_processes=1, num_cpus=1)
    environment |= {"PYTHONPATH": str(Path.cwd()), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "training", "dpo", "--spec", str(folder / "job.yaml")]
    with (folder / "log.txt").open("ab") as log:
        limited = ["prlimit", f"--fsize={FILE_BYTES}", *command]
        return subprocess.run(limited, env=environment, stdout=log, stderr=log, check=False).returncode


def settle(
    folder: Path,
    base: Path,
    *,
    method: str = "dpo",
    num_processes: int = 1,
    own: dict[str, object] | None = None,
    **hyperparameters: object,
) -> None:
    """A run at ZeRO-0; `hyperparameters` are added to those of `prepare`, `own` are the method's own settings."""
    prepare(folder, base=base, method=method, zero_stage=0)
    document = yaml.safe_load((folder / "job.yaml").read_text())
    document["distribution"]["num_processes"] = num_processes
    document["hyperparameters"] |= hyperparameters
    document["checkpoint_interval_seconds"] = 0.0
    document[method] = own or {}
    (folder / "job.yaml").write_text(yaml.safe_dump(document))


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_full_disk_is_a_typed_failure_and_the_next_attempt_goes_through(tmp_path: Path, tiny_model: Path):  # noqa: F811
    folder = tmp_path / "run"
    settle(folder, tiny_model, max_steps=2, checkpoint_every_steps=0)
    assert run_on_small_disk(folder) == EXIT_CRASHED
    failure = read_failure(folder)
    assert failure is not None and failure.reason == "DISK_FULL"
    assert list((folder / "checkpoints").iterdir()) == []
    assert run(folder) == 0
    assert read_failure(folder) is None
    # By time, with an interval of nothing: after every step.
    assert [path.name for path in sorted((folder / "checkpoints").iterdir())] == ["step-00000001", "step-00000002"]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("method", "own"),
    [
        ("dpo", {"loss": "mpo"}),
        ("kto", {}),
        ("sft", {}),
        ("sdpo", {"teacher": "ema", "ema_decay": 0.5}),
    ],
)
def test_losses_do_not_depend_on_how_a_batch_is_cut_into_ranks_and_passes(
    tmp_path: Path,
    tiny_model: Path,  # noqa: F811
    method: str,
    own: dict[str, object],
):
    found = []
    for num_processes, micro in ((1, 4), (2, 1)):
        folder = tmp_path / str(num_processes)
        # One epoch. In its last step there is a single row, and one of two ranks has none.
        cut = {"num_processes": num_processes, "micro_batch_size": micro}
        steps = {"max_steps": 4, "checkpoint_every_steps": 4}
        weight = 0.0 if "sft_weight" in methods.METHODS[method].lacks else 0.5
        settle(folder, tiny_model, method=method, own=own, sft_weight=weight, **steps, **cut)
        assert run(folder, method, num_processes=num_processes) == 0
        rows = [json.loads(line) for line in (folder / "progress.jsonl").read_text().splitlines()]
        names = ["loss", "grad_norm", *MEASURED.get(method, ("rewards/margins", "rewards/chosen"))]
        found.append([[row[name] for name in names] for row in rows])
    assert len(found[0]) == 4
    for whole, cut_up in zip(*found, strict=True):
        assert cut_up == pytest.approx(whole, rel=1e-4, abs=1e-5)  # the margin of the first step is rounding


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_last_step_that_breaks_the_weights_ends_the_run_without_a_model(tmp_path: Path, tiny_model: Path):  # noqa: F811
    folder = tmp_path / "run"
    # Loss and gradient of the only step are fine; its update is larger than a float32 can be.
    settle(folder, tiny_model, max_steps=1, learning_rate=1e39, no_warmup=True)
    assert run(folder) == EXIT_FAILED
    failure = read_failure(folder)
    assert failure is not None and failure.reason == "WEIGHTS_NOT_FINITE"
    assert not (folder / "model").exists()
    assert list((folder / "checkpoints").glob("*")) == []
