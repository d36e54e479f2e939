"""Why an attempt ended, as a typed error, and whether another attempt can help.

An attempt that crashed may be repeated, from its newest checkpoint, as often as the job's spec allows. An error of the
request, the data or the set-up is final at once: the same program would end in the same way. An eviction is nobody's
crash: it is repeated and does not count.
"""

from omnialign.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    NotFound,
    OmnialignError,
    PermissionDenied,
)
from services.training.job_directory import JobDirectory
from services.training.process_groups import ProcessExit, log_tail
from training.launch import read_failure

FINAL = (InvalidArgument, FailedPrecondition, NotFound, PermissionDenied, DeadlineExceeded)
"""Errors that no repetition mends."""


def may_restart(error: OmnialignError, *, crashes: int, allowed: int) -> bool:
    """Whether another attempt can help after `error` and is allowed after `crashes`, the last one included."""
    # A final error would come again; anything else may have been the machine, until it has crashed too often.
    return not isinstance(error, FINAL) and crashes <= allowed


def failure_of(ended: ProcessExit, directory: JobDirectory) -> OmnialignError:
    """The error that a local program left behind, or else one that says how it ended."""
    left = read_failure(directory.output) or read_failure(directory.folder)
    if left is not None:
        return left
    last = next((line for line in reversed(log_tail(directory.log)) if line.strip()), "")
    return died(ended.reason(), last_line=last)


def died(exit_reason: str, *, last_line: str = "") -> Internal:
    """The error of a program that ended and left none."""
    return Internal(
        f"the training program ended without a model: {exit_reason}",
        reason="PROCESS_DIED",
        metadata={"exit_reason": exit_reason, "last_line": last_line[:200]},
    )


def heartbeat_lost(silent_seconds: float) -> Internal:
    """The error of a job that was killed because it sent no heartbeat for `silent_seconds`."""
    return Internal(
        f"the job sent no heartbeat for {silent_seconds:g} s and was killed",
        reason="HEARTBEAT_LOST",
        metadata={"heartbeat_timeout_seconds": f"{silent_seconds:g}"},
    )


def not_delivered() -> Internal:
    """The error of a job whose pods succeeded, but whose model never came."""
    return Internal("the job succeeded but delivered no model; see its log", reason="MODEL_NOT_DELIVERED")
