"""Why an attempt ended, as a typed error, and whether starting it again can help."""

from omnialign.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    NotFound,
    OmnialignError,
    PermissionDenied,
)
from services.training.groups import Ended, log_tail
from services.training.workplace import Workplace
from training.failure import read_failure

FINAL = (InvalidArgument, FailedPrecondition, NotFound, PermissionDenied, DeadlineExceeded)
"""Errors of the request, the data or the set-up: the same program ends the same way."""


def failure_of(ended: Ended, place: Workplace) -> OmnialignError:
    """The error that a local program left, or one that says how it ended."""
    left = read_failure(place.output) or read_failure(place.folder)
    if left is not None:
        return left
    last = next((line for line in reversed(log_tail(place.log)) if line.strip()), "")
    return died(ended.reason(), last_line=last)


def died(exit_reason: str, *, last_line: str = "") -> Internal:
    """The error of a program that ended without a word."""
    return Internal(
        f"the training program ended without a model: {exit_reason}",
        reason="PROCESS_DIED",
        metadata={"exit_reason": exit_reason, "last_line": last_line[:200]},
    )


def heartbeat_lost(silent_seconds: float) -> Internal:
    """The error of a job that was stopped because it did not speak."""
    return Internal(
        f"the job did not speak for {silent_seconds:g} s and was killed",
        reason="HEARTBEAT_LOST",
        metadata={"heartbeat_timeout_seconds": f"{silent_seconds:g}"},
    )


def not_delivered() -> Internal:
    """The error of a job whose pods ended well, yet whose model never came."""
    return Internal("the job ended well but delivered no model; see its log", reason="MODEL_NOT_DELIVERED")


def may_restart(error: OmnialignError, *, crashes: int, allowed: int) -> bool:
    """Whether another start can help and is allowed."""
    return not isinstance(error, FINAL) and crashes <= allowed
