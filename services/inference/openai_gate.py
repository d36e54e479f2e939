"""The door to one endpoint: lets requests in, in the order they came, as its limit and its wishes allow."""

import asyncio
from collections import deque

from services.inference.openai_clock import Clock
from services.inference.openai_limit import ConcurrencyLimit


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
