"""When and how often a failed call is tried again.

Only UNAVAILABLE, only calls that may run twice, four tries in all, 0.1 s doubling to 1 s between them (with jitter, so
that clients do not return in step). All calls of a client share a budget: when most fail, retries stop, because a
service that is down is not helped by four times the load.
"""

import random

MAX_ATTEMPTS = 4
INITIAL_SECONDS = 0.1
MAX_SECONDS = 1.0


def backoff_seconds(attempt: int) -> float:
    """How long to wait after failed attempt number `attempt`, which counts from 1."""
    return min(INITIAL_SECONDS * 2.0 ** min(attempt - 1, 16), MAX_SECONDS) * random.uniform(0.8, 1.2)


class RetryBudget:
    """A bucket of tokens: each retry takes one, each success gives a tenth back; below half, nothing is retried."""

    def __init__(self, *, max_tokens: float = 10.0, token_ratio: float = 0.1) -> None:
        self._max = max_tokens
        self._ratio = token_ratio
        self._tokens = max_tokens

    def succeeded(self) -> None:
        """Tells that a call went well."""
        self._tokens = min(self._max, self._tokens + self._ratio)

    def failed(self) -> bool:
        """Tells that a call found the service unavailable; whether it may be tried again."""
        self._tokens = max(0.0, self._tokens - 1)
        return self._tokens > self._max / 2
