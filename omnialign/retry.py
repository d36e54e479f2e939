"""Retries and bounded waits: how long to pause between two attempts, when to give up, and how to wait for an event.

Every retry loop of the project is driven by one `RetryPolicy`, so that all of them back off exponentially, with jitter,
up to a cap, and within a budget. The loop itself stays with the caller, who alone knows which errors are worth another
attempt, whether it sleeps in a thread or on an event loop, and what to say when the budget is spent:

    retries = policy.start()
    while True:
        try:
            return await call()
        except Unavailable:
            pause_seconds = retries.next_pause_seconds()
            if pause_seconds is None:
                raise
        await asyncio.sleep(pause_seconds)

Exactly one layer retries a call. Code that calls through a client that retries already does not retry again.
"""

import asyncio
import contextlib
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field

_MAX_EXPONENT = 64  # 2.0 ** 64 times any base exceeds any cap; more would overflow a float


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """How attempts are spaced and when they end. Immutable, so one policy can be shared by any number of calls."""

    base_seconds: float = 0.1
    """Pause after the first failure, before jitter."""

    factor: float = 2.0
    """How much longer each pause is than the one before."""

    jitter: float = 0.5
    """Share of a pause that is random: it is drawn uniformly from `[(1 - jitter) * pause, pause]`, so that clients that
    failed together do not come back together."""

    cap_seconds: float = 5.0
    """Longest pause."""

    budget_seconds: float = float("inf")
    """No attempt begins later than this after the first failure; 0 means that nothing is retried."""

    max_attempts: int | None = None
    """Attempts in all, the first included; None leaves the bound to the budget."""

    def __post_init__(self) -> None:
        """Raises ValueError, naming the field, for values that make no sense together."""
        if self.base_seconds < 0 or self.cap_seconds < self.base_seconds:
            raise ValueError(f"cap_seconds ({self.cap_seconds}) must be at least base_seconds ({self.base_seconds})")
        if self.factor < 1:
            raise ValueError(f"factor must be at least 1, not {self.factor}")
        if not 0 <= self.jitter <= 1:
            raise ValueError(f"jitter must be between 0 and 1, not {self.jitter}")

    def pause_seconds(self, num_failures: int, *, draw: Callable[[], float] = random.random) -> float:
        """Pause after failure number `num_failures`, which counts from 1. `draw` gives numbers in [0, 1)."""
        pause = min(self.base_seconds * self.factor ** min(num_failures - 1, _MAX_EXPONENT), self.cap_seconds)
        return pause * (1.0 - self.jitter * draw())

    def start(self, *, draw: Callable[[], float] = random.random) -> "RetryState":
        """The state of one call under this policy, before its first attempt."""
        return RetryState(self, draw=draw)


@dataclass
class RetryState:
    """The failures of one call so far."""

    policy: RetryPolicy
    draw: Callable[[], float] = random.random
    clock: Callable[[], float] = time.monotonic
    num_failures: int = field(default=0, init=False)
    failed_at: float | None = field(default=None, init=False)
    """Clock time of the first failure since the start or the last `reset`; None while there was none."""

    def next_pause_seconds(self, *, retry_after_seconds: float = 0.0) -> float | None:
        """Counts a failure and returns the pause before the next attempt; None when there must not be one.

        The pause is at least `retry_after_seconds`, which is what a server asked for (`Retry-After`), even beyond the
        cap. It must still fit into the budget.
        """
        now = self.clock()
        if self.failed_at is None:
            self.failed_at = now
        self.num_failures += 1
        if self.policy.max_attempts is not None and self.num_failures >= self.policy.max_attempts:
            return None
        pause = max(self.policy.pause_seconds(self.num_failures, draw=self.draw), retry_after_seconds)
        return None if now + pause - self.failed_at > self.policy.budget_seconds else pause

    def reset(self) -> None:
        """Forgets past failures, because an attempt made progress."""
        self.num_failures, self.failed_at = 0, None


class RetryBudget:
    """Stops retries where most calls fail, because several times the load does not help a service that is down.

    Shared by all calls to one service. A bucket of tokens: a failure takes one, a success gives `token_ratio` of one
    back, and nothing is retried while the bucket is at most half full.
    """

    def __init__(self, *, max_tokens: float = 10.0, token_ratio: float = 0.1) -> None:
        self._max = max_tokens
        self._ratio = token_ratio
        self._tokens = max_tokens

    def succeeded(self) -> None:
        """Counts a call that succeeded."""
        self._tokens = min(self._max, self._tokens + self._ratio)

    def failed(self) -> bool:
        """Counts a call that found the service unavailable. Returns whether it may be retried."""
        self._tokens = max(0.0, self._tokens - 1)
        return self._tokens > self._max / 2


async def wait_for_event(event: asyncio.Event, *, timeout_seconds: float) -> bool:
    """Waits until `event` is set, for at most `timeout_seconds`; whether it was set.

    `asyncio.wait_for` would not do: in Python 3.11 it loses a cancellation that arrives together with the event
    (python/cpython#86296, fixed in 3.12), and the task that was told to end goes on.
    """
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_seconds):
            await event.wait()
    return event.is_set()
