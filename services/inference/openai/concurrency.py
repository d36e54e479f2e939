"""The time as a client of endpoints needs it; tests bring their own.

How many requests may be at one endpoint at a time: found out by asking, as TCP does.

The limit doubles per round trip until the endpoint first complains, then grows by one per round trip. It is halved, at
most once per round trip, when the endpoint is overloaded (429, 503, a time-out), and lowered when latency has grown
while fewer requests come back per second than at the endpoint's best: then more requests only wait there.


The door to one endpoint: lets requests in, in the order they came, as its limit and its wishes allow."""

import asyncio
import time
from collections import deque
from statistics import median
from typing import Protocol


class Clock(Protocol):
    """Tells the time and lets it pass."""

    def now(self) -> float:
        """Seconds since some moment; never goes back."""
        ...

    def date(self) -> float:
        """Seconds since 1970, for dates that others name."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Returns after so many seconds."""
        ...


class SystemClock:
    """The machine's time."""

    def now(self) -> float:
        """Seconds since some moment."""
        return time.monotonic()

    def date(self) -> float:
        """Seconds since 1970."""
        return time.time()

    async def sleep(self, seconds: float) -> None:
        """Returns after so many seconds."""
        await asyncio.sleep(seconds)


FIRST_LIMIT = 8.0
WINDOW = 16
"""Answers that latency is judged by; more where the limit is higher, so that a window spans a round trip."""
SLOWER = 2.0
"""Latency beyond so many times the least one is grown."""
FEWER = 0.7
"""A rate below this share of the best one is a loss."""
EASE = 0.8
FORGET = 0.01
"""Share by which the best of the past loses its weight with every window: prompts and endpoints change."""


class ConcurrencyLimit:
    """The limit of one endpoint; between 1 and `maximum`. A pure state machine: no clock, no tasks."""

    def __init__(self, maximum: int) -> None:
        self._maximum = float(maximum)
        self._value = min(FIRST_LIMIT, self._maximum)
        self._is_doubling = True
        self._seconds: list[float] = []
        self._window = WINDOW
        self._least_seconds = self._best_rate = 0.0
        self.round = 0
        """Number of the round trip. A request remembers the one it began in."""

    @property
    def value(self) -> int:
        """Requests that may be at the endpoint now."""
        return int(self._value)

    def succeeded(self, *, seconds: float, was_full: bool) -> None:
        """An answer came after `seconds`; `was_full` says whether the limit was what kept others away."""
        if not was_full:
            return  # a limit that binds nobody shows nothing
        self._value = min(self._maximum, self._value + (1.0 if self._is_doubling else 1.0 / self._value))
        self._seconds.append(seconds)
        if len(self._seconds) >= self._window:
            self._judge(max(median(self._seconds), 1e-9))
            self._begin_window()

    def overloaded(self, *, began: int) -> None:
        """A request of the round `began` met an overload. One that began before the last cut tells nothing new."""
        if began == self.round:
            self._cut(0.5)

    def _judge(self, seconds: float) -> None:
        """Compares a window with the best of the past."""
        rate = self._value / seconds
        if self._best_rate and seconds > SLOWER * self._least_seconds and rate < FEWER * self._best_rate:
            self._cut(EASE)
        self._least_seconds = min(seconds, self._least_seconds * (1 + FORGET) or seconds)
        self._best_rate = max(rate, self._best_rate * (1 - FORGET))

    def _cut(self, share: float) -> None:
        self._value = max(1.0, self._value * share)
        self._is_doubling = False
        self._begin_window()
        self.round += 1

    def _begin_window(self) -> None:
        self._seconds.clear()
        self._window = max(WINDOW, self.value)


class Gate:
    """Shared by all requests of the process to one endpoint. For use on one event loop."""

    def __init__(self, limit: ConcurrencyLimit, clock: Clock) -> None:
        self._limit, self._clock = limit, clock
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._opens_at = float("-inf")
        self.running = 0
        """Requests that were let in and have not left."""

    @property
    def limit(self) -> int:
        """Requests that may be in at the same time."""
        return self._limit.value

    async def enter(self) -> int:
        """Waits for a place, and for the end of a pause that the endpoint asked for; gives the round of the limit.

        Who was let in leaves, whatever happens.
        """
        await self._place()
        try:
            while (seconds := self._opens_at - self._clock.now()) > 0:
                await self._clock.sleep(seconds)
        except BaseException:
            self.leave()
            raise
        return self._limit.round

    def succeeded(self, *, seconds: float) -> None:
        """A request that is in was answered within `seconds`."""
        self._limit.succeeded(seconds=seconds, was_full=self.running >= self._limit.value)

    def overloaded(self, *, began: int) -> None:
        """A request that was let in in this round met an overload."""
        self._limit.overloaded(began=began)

    def pause(self, seconds: float) -> None:
        """Lets nobody in for so long."""
        self._opens_at = max(self._opens_at, self._clock.now() + seconds)

    def leave(self) -> None:
        """Gives a place back."""
        self.running -= 1
        while self._waiting and self.running < self._limit.value:
            turn = self._waiting.popleft()
            if not turn.done():  # else it was cancelled
                self.running += 1
                turn.set_result(None)

    async def _place(self) -> None:
        if not self._waiting and self.running < self._limit.value:
            self.running += 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # the place came together with the cancellation
                self.leave()
            raise
