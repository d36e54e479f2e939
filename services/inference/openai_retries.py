"""When a request is tried again: the endpoint's own wish (`Retry-After`), growing pauses, and a budget per request."""

import random
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime

FIRST_PAUSE_SECONDS = 0.5
MAX_PAUSE_SECONDS = 30.0
MAX_DIGITS = 10


def parse_retry_after(value: str | None, *, date: float) -> float | None:
    """Seconds that a `Retry-After` header asks to wait, given the seconds since 1970; None for no header or no sense.

    The header is a whole or decimal number of seconds, or an HTTP date. A date that has passed means 0.
    """
    text = (value or "").strip()
    if not text:
        return None
    if text.isascii() and text.replace(".", "", 1).isdigit():
        return float(text) if len(text.partition(".")[0]) <= MAX_DIGITS else None
    try:
        return max(0.0, float(parsedate_to_datetime(text).timestamp()) - date)
    except (ValueError, TypeError, OverflowError, OSError, IndexError):
        return None


@dataclass
class RetryBudget:
    """The retries of one request: at most so many, and none later than so many seconds after its first failure."""

    max_retries: int
    seconds: float
    draw: random.Random = field(default_factory=random.Random)
    retries: int = 0
    tried_at: float = float("-inf")
    """When the newest try began."""
    failed_at: float | None = None
    """When the first try failed for a reason that may pass."""

    @property
    def troubled_since(self) -> float:
        """When the trouble of a request that failed began, as far as it knows."""
        return self.tried_at if self.failed_at is None else self.failed_at

    def pause(self, *, now: float, retry_after: float | None) -> float | None:
        """Seconds to wait before the next try, counting it; None when there should be none."""
        if self.failed_at is None:
            self.failed_at = now
        grown = min(MAX_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2.0 ** min(self.retries, 30))
        pause = max(grown * self.draw.uniform(0.5, 1.0), retry_after or 0.0)
        if self.retries >= self.max_retries or now + pause - self.failed_at > self.seconds:
            return None
        self.retries += 1
        return pause
