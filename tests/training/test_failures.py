"""Every failure leaves a typed error, and room for the next attempt."""

import errno
from pathlib import Path

import pytest
import torch

from omnialign.errors import FailedPrecondition
from training import failures
from training.launch import read_failure


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "DISK_FULL"),
        (
            RuntimeError("PytorchStreamWriter failed writing file data: file write failed"),
            "DISK_FULL",
        ),
        (RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"), "DISK_FULL"),
        (MemoryError(), "OUT_OF_MEMORY"),
        (torch.OutOfMemoryError("CUDA error"), "OUT_OF_MEMORY"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), "OUT_OF_MEMORY"),
        (ValueError("odd"), "TRAINING_FAILED"),
        (FailedPrecondition("no", reason="LOSS_NOT_FINITE"), "LOSS_NOT_FINITE"),
    ],
)
def test_a_failure_is_typed_and_what_was_half_written_is_gone(tmp_path: Path, error: Exception, reason: str):
    kept = tmp_path / "checkpoints" / "step-00000005"
    for folder in (kept, tmp_path / "checkpoints" / ".staging-00000010", tmp_path / ".model.abc"):
        folder.mkdir(parents=True)
    assert failures.leave(error, tmp_path / "").reason == reason
    failure = read_failure(tmp_path)
    assert failure is not None and failure.reason == reason
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["checkpoints", "error.json", kept.name]


def test_the_cause_of_an_error_counts_and_an_echo_of_another_rank_does_not(tmp_path: Path):
    try:
        try:
            raise OSError(errno.ENOSPC, "full")
        except OSError as error:
            raise RuntimeError("the checkpoint was not written") from error
    except RuntimeError as error:
        failures.leave(error, tmp_path)
    failures.leave(RuntimeError("Connection closed by peer"), tmp_path)
    failure = read_failure(tmp_path)
    assert failure is not None and failure.reason == "DISK_FULL"
