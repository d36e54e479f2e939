"""Calling a service that may be away: the job waits for it, and says so, instead of failing.

Tries are spaced exponentially with jitter, each pause is capped, and the whole wait has a budget. Only what may pass
by itself is tried again; a request that can never succeed raises at once.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection
from typing import TypeVar

from omnialign import errors
from omnialign.errors import OmnialignError

T = TypeVar("T")

PASSING = (
    errors.Unavailable,
    errors.DeadlineExceeded,
    errors.ResourceExhausted,
    errors.Aborted,
    errors.Cancelled,
    # Our own token is being replaced, and the other service has not read the new file of tokens yet.
    errors.Unauthenticated,
)
FIRST_PAUSE_SECONDS = 0.2
MAX_FAULTS = 5
"""How often a service's own fault (INTERNAL, UNKNOWN) is tried again: it may be a dying process, or a bug."""

Announce = Callable[[str, str, str], Awaitable[None]]
"""Told (uid, service, problem) when a job begins to wait for a service; problem is empty when it answers again."""


def is_passing(error: BaseException) -> bool:
    """Whether the same call may succeed later."""
    return isinstance(error, (*PASSING, TimeoutError, ConnectionError))


def is_fault(error: BaseException) -> bool:
    """Whether the service failed by a fault of its own, which now and then is its death."""
    return isinstance(error, errors.Internal) or type(error) is OmnialignError


class Wait:
    """One wait for one service: counts tries, pauses between them, and ends when its budget is spent."""

    def __init__(self, patience: "Patience", *, uid: str, service: str) -> None:
        self._patience, self._uid, self._service = patience, uid, service
        self._tries = self._faults = 0
        self._since = 0.0

    async def after(self, error: Exception) -> None:
        """Pauses before the next try; raises when there should be none."""
        self._faults += is_fault(error)
        if not is_passing(error) and not (is_fault(error) and self._faults <= MAX_FAULTS):
            raise error
        now = time.monotonic()
        self._since = self._since or now
        if now - self._since > self._patience.budget_seconds:
            raise self._given_up(error) from error
        await self._patience.waiting(self._uid, self._service, str(error) or type(error).__name__)
        pause = min(self._patience.cap_seconds, FIRST_PAUSE_SECONDS * 2 ** min(self._tries, 30))
        self._tries += 1
        await asyncio.sleep(pause * random.uniform(0.5, 1.0))

    async def progressed(self) -> None:
        """The service answered: the next failure begins a new wait."""
        self._tries = self._faults = 0
        self._since = 0.0
        await self._patience.answered(self._uid, self._service)

    def _given_up(self, error: Exception) -> OmnialignError:
        seconds = self._patience.budget_seconds
        return errors.Unavailable(
            f"the {self._service} service did not answer for {seconds:.0f} seconds: {error}",
            reason="SERVICE_UNAVAILABLE",
            metadata={"service": self._service, "seconds": f"{seconds:.0f}"},
        )


class Patience:
    """Waits of all jobs of a process; each job hears once that a service is away, and once that it is back."""

    def __init__(self, *, cap_seconds: float, budget_seconds: float, announce: Announce) -> None:
        self.cap_seconds, self.budget_seconds = cap_seconds, budget_seconds
        self._announce = announce
        self._away: set[tuple[str, str]] = set()

    def wait(self, uid: str, service: str) -> Wait:
        """A new wait."""
        return Wait(self, uid=uid, service=service)

    async def call(self, action: Callable[[], Awaitable[T]], *, uid: str, service: str) -> T:
        """The result of an idempotent action, tried until it succeeds, fails for good, or the budget is spent."""
        wait = self.wait(uid, service)
        while True:
            try:
                result = await action()
            except (OmnialignError, TimeoutError, ConnectionError) as error:
                await wait.after(error)
            else:
                await wait.progressed()
                return result

    def away(self, uids: Collection[str]) -> Counter[str]:
        """How many of these jobs wait for each service; other jobs have ended and are forgotten."""
        self._away = {(uid, service) for uid, service in self._away if uid in uids}
        return Counter(service for _, service in self._away)

    async def waiting(self, uid: str, service: str, problem: str) -> None:
        """Says once that the job waits."""
        if (uid, service) not in self._away:
            self._away.add((uid, service))
            await self._announce(uid, service, problem)

    async def answered(self, uid: str, service: str) -> None:
        """Says once that the wait is over."""
        if (uid, service) in self._away:
            self._away.discard((uid, service))
            await self._announce(uid, service, "")
