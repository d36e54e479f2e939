"""How many requests may be in flight to one endpoint: an adaptive limit, and the limiter that enforces it.

The limit is found by trying, as TCP finds its window. It doubles per round trip until the endpoint first complains, and
grows by one per round trip from then on (additive increase). It is halved, at most once per round trip, when the
endpoint is overloaded (429, 503, a timeout), and lowered when latency has grown while fewer answers come back per
second than at the endpoint's best: then more requests only wait there.
"""

import asyncio
import time
from collections import deque
from statistics import median
from typing import Protocol

INITIAL_LIMIT = 16.0
WINDOW = 16
"""Answers per window, over which latency is measured; more if the limit is higher, so that a window spans a round
trip."""
SLOWER = 2.0
"""Latency has grown if it is this many times the lowest one."""
FEWER = 0.7
"""Throughput has fallen if it is below this share of the best one."""
EASE = 0.8
"""Share of the limit that remains when latency has grown and throughput has fallen."""
DECAY = 0.01
"""Share by which the best values of the past lose weight with every window: prompts and endpoints change."""


class Clock(Protocol):
    """Time, which tests replace."""

    def now(self) -> float:
        """Seconds on a clock that never goes back."""
        ...

    def date(self) -> float:
        """Seconds since 1970, to compare with dates that others name."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Returns after `seconds`."""
        ...


class SystemClock:
    """The machine's time."""

    def now(self) -> float:
        """Seconds on a clock that never goes back."""
        return time.monotonic()

    def date(self) -> float:
        """Seconds since 1970."""
        return time.time()

    async def sleep(self, seconds: float) -> None:
        """Returns after `seconds`."""
        await asyncio.sleep(seconds)


class AdaptiveLimit:
    """The limit of one endpoint, between 1 and `maximum`. A pure state machine: no clock, no tasks."""

    def __init__(self, maximum: int) -> None:
        self._maximum = float(maximum)
        self._value = min(INITIAL_LIMIT, self._maximum)
        self._is_doubling = True  # slow start, until the first cut
        self._seconds: list[float] = []
        self._window = WINDOW
        self._least_seconds = self._best_rate = 0.0
        self.round = 0
        """Number of cuts so far. A request remembers the round that it began in."""

    @property
    def value(self) -> int:
        """Requests that may be in flight now."""
        return int(self._value)

    def succeeded(self, *, seconds: float, was_full: bool) -> None:
        """An answer came after `seconds`; `was_full` says whether the limit kept other requests waiting."""
        if not was_full:
            return  # a limit that binds nobody proves nothing
        # 1 per answer doubles the limit per round trip, as there are as many answers; 1 / limit adds one.
        self._value = min(self._maximum, self._value + (1.0 if self._is_doubling else 1.0 / self._value))
        self._seconds.append(seconds)
        if len(self._seconds) >= self._window:
            self._evaluate(max(median(self._seconds), 1e-9))
            self._begin_window()

    def overloaded(self, *, began: int) -> None:
        """A request of round `began` met an overload. One that began before the last cut tells nothing new."""
        if began == self.round:
            self._cut(0.5)

    def _evaluate(self, seconds: float) -> None:
        """Compares the latency of a window with the best of the past."""
        # Higher latency alone is no harm: an endpoint that batches answers later and still gives more per second.
        rate = self._value / seconds
        if self._best_rate and seconds > SLOWER * self._least_seconds and rate < FEWER * self._best_rate:
            self._cut(EASE)
        self._least_seconds = min(seconds, self._least_seconds * (1 + DECAY) or seconds)
        self._best_rate = max(rate, self._best_rate * (1 - DECAY))

    def _cut(self, share: float) -> None:
        self._value = max(1.0, self._value * share)
        self._is_doubling = False
        self._begin_window()
        self.round += 1

    def _begin_window(self) -> None:
        self._seconds.clear()
        self._window = max(WINDOW, self.value)


class ConcurrencyLimiter:
    """Admits requests to one endpoint in their order of arrival, as its limit and the pauses it asks for allow.

    Shared by all requests of the process to that endpoint. For use on one event loop.
    """

    def __init__(self, limit: AdaptiveLimit, clock: Clock) -> None:
        self._limit, self._clock = limit, clock
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._paused_until = float("-inf")
        self.num_running = 0
        """Requests that were admitted and not released."""

    @property
    def limit(self) -> int:
        """Requests that may be admitted at the same time."""
        return self._limit.value

    async def acquire(self) -> int:
        """Waits for a slot and for the end of any pause; returns the round of the limit. `release` must follow."""
        await self._take_slot()
        try:
            while (seconds := self._paused_until - self._clock.now()) > 0:
                await self._clock.sleep(seconds)
        except BaseException:
            self.release()
            raise
        return self._limit.round

    def succeeded(self, *, seconds: float) -> None:
        """A request that was admitted was answered within `seconds`."""
        self._limit.succeeded(seconds=seconds, was_full=self.num_running >= self._limit.value)

    def overloaded(self, *, began: int) -> None:
        """A request that was admitted in round `began` met an overload."""
        self._limit.overloaded(began=began)

    def pause(self, seconds: float) -> None:
        """Admits nobody for `seconds`."""
        self._paused_until = max(self._paused_until, self._clock.now() + seconds)

    def release(self) -> None:
        """Returns a slot, and hands it on to whoever has waited longest."""
        self.num_running -= 1
        while self._waiting and self.num_running < self._limit.value:
            turn = self._waiting.popleft()
            if not turn.done():  # else its request was cancelled
                self.num_running += 1
                turn.set_result(None)

    async def _take_slot(self) -> None:
        if not self._waiting and self.num_running < self._limit.value:
            self.num_running += 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            # The slot may have arrived together with the cancellation; dropped here, it would be lost for good.
            if turn.done() and not turn.cancelled():
                self.release()
            raise
