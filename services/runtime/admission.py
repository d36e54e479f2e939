"""A bound on the calls in flight: what exceeds it is refused at once instead of queueing without end.

gRPC's own bound would refuse health checks too, and a busy server would be killed for it. The interceptor that calls
this one never sees health and reflection.
"""

from omnialign.errors import ResourceExhausted
from services.runtime.failures import RETRY_AFTER

RETRY_AFTER_SECONDS = 1.0


class Admission:
    """Counts calls in flight, up to `limit`."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._in_flight = 0

    def enter(self) -> None:
        """Takes a place, until `leave`. Raises ResourceExhausted (`TOO_MANY_CALLS`) when all are taken."""
        if self._in_flight >= self._limit:
            raise ResourceExhausted(
                f"The server is at its limit of {self._limit} calls in flight; retry in {RETRY_AFTER_SECONDS:g} s",
                reason="TOO_MANY_CALLS",
                metadata={"limit": str(self._limit), RETRY_AFTER: f"{RETRY_AFTER_SECONDS:g}"},
            )
        self._in_flight += 1

    def leave(self) -> None:
        """Gives a place back."""
        self._in_flight -= 1
