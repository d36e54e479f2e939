"""How fast a project may call: a bucket of tokens for each, refilled at a steady rate.

Each replica counts for itself: a shared count would cost every call a trip to a database.
"""

import time
from collections import OrderedDict

from omnialign.errors import ResourceExhausted
from services.runtime.failures import RETRY_AFTER

MAX_BUCKETS = 4096
MIN_RETRY_SECONDS = 0.01


class Rates:
    """The buckets of all projects. A project that has not called for a long time has a full one."""

    def __init__(self, *, per_second: float, burst: int) -> None:
        self._per_second = per_second
        self._burst = float(burst or max(1, round(2 * per_second)))
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, project: str, *, now: float | None = None) -> None:
        """Counts one call. Raises ResourceExhausted (`RATE_LIMITED`, with the time to wait) when there were too many.

        `now` is on the clock of `time.monotonic`.
        """
        now = time.monotonic() if now is None else now
        level, filled = self._buckets.pop(project, (self._burst, now))
        level = min(self._burst, level + max(now - filled, 0.0) * self._per_second)
        self._buckets[project] = (level - 1 if level >= 1 else level, now)
        if len(self._buckets) > MAX_BUCKETS:
            self._buckets.popitem(last=False)
        if level < 1:
            raise self._limited(project, wait_seconds=max((1 - level) / self._per_second, MIN_RETRY_SECONDS))

    def _limited(self, project: str, *, wait_seconds: float) -> ResourceExhausted:
        return ResourceExhausted(
            f"Project '{project}' calls more than {self._per_second:g} times a second; retry in {wait_seconds:.2g} s",
            reason="RATE_LIMITED",
            metadata={
                "project": project,
                "rate_per_second": f"{self._per_second:g}",
                RETRY_AFTER: f"{wait_seconds:.3f}",
            },
        )
