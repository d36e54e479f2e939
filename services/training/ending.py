"""Why a program ended, as a typed error, and whether starting it again can help."""

from omnialign.errors import FailedPrecondition, Internal, InvalidArgument, NotFound, OmnialignError
from services.training.launcher import Ended, log_tail
from services.training.workplace import Workplace
from training.failure import read_failure

FINAL = (InvalidArgument, FailedPrecondition, NotFound)
"""Errors of the request or the data: the same program ends the same way."""


def failure_of(ended: Ended, place: Workplace, *, lost_after_seconds: float | None) -> OmnialignError:
    """The error that the program left, or one that says how it ended."""
    if lost_after_seconds is not None:
        return Internal(
            f"the job did not speak for {lost_after_seconds:g} s and was killed",
            reason="HEARTBEAT_LOST",
            metadata={"heartbeat_timeout_seconds": f"{lost_after_seconds:g}"},
        )
    left = read_failure(place.output) or read_failure(place.folder)
    if left is not None:
        return left
    last = next((line for line in reversed(log_tail(place.log)) if line.strip()), "")
    return Internal(
        f"the training program ended without a model: {ended.reason()}",
        reason="PROCESS_DIED",
        metadata={"exit_reason": ended.reason(), "last_line": last[:200]},
    )


def may_restart(error: OmnialignError, *, crashes: int, allowed: int) -> bool:
    """Whether another start can help and is allowed."""
    return not isinstance(error, FINAL) and crashes <= allowed
