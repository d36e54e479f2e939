"""What a service must do before it can serve: connect, check, take up work. Tried again until it succeeds.

A service whose database or object store is away does not crash: it runs, says NOT_SERVING and why, refuses calls with
that reason, and serves as soon as the work has succeeded.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from prometheus_client import CollectorRegistry, Gauge

from omnialign.errors import OmnialignError, Unavailable
from services.runtime.failures import as_omnialign_error

FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 0.25, 10.0

Work = Callable[[], Awaitable[None]]

_log = logging.getLogger(__name__)


class Readiness:
    """The work of all services of a server. `ready` is told each name whose work has succeeded."""

    def __init__(self, registry: CollectorRegistry, *, ready: Callable[[str], None]) -> None:
        self._ready = ready
        self._work: dict[str, list[Work]] = {}
        self._problems: dict[str, OmnialignError] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._gauge = Gauge(
            "omnialign_ready", "Whether the service has connected to what it needs.", ("service",), registry=registry
        )

    def show(self, name: str) -> None:
        """Makes a service known to the metrics, as ready unless something is left to do."""
        self._gauge.labels(name).set(self.is_ready(name))

    def add(self, name: str, work: Work) -> None:
        """Gives a service something to do before it serves; several works are done in the order they were given."""
        self._work.setdefault(name, []).append(work)
        self._problems.setdefault(name, _starting(name))
        self._gauge.labels(name).set(0)

    def is_ready(self, name: str) -> bool:
        """Whether nothing is left to do for a service."""
        return name not in self._problems

    def require(self, name: str) -> None:
        """Raises Unavailable (`NOT_READY`, with what is missing) while something is left to do."""
        if self._problems and (problem := self._problems.get(name)) is not None:
            message = f"The service is not ready: {problem.message}"
            raise Unavailable(message, reason="NOT_READY", metadata={"service": name, "cause": problem.reason})

    async def start(self) -> None:
        """Tries each service's work once, then goes on in the background where it failed."""
        first = {name: asyncio.Event() for name in self._work}
        self._tasks = [asyncio.create_task(self._prepare(name, first[name]), name=f"prepare {name}") for name in first]
        await asyncio.gather(*(event.wait() for event in first.values()))

    def problems(self) -> list[OmnialignError]:
        """What keeps services from being ready now."""
        return list(self._problems.values())

    async def close(self) -> None:
        """Gives up on what has not succeeded."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _prepare(self, name: str, tried: asyncio.Event) -> None:
        wait_seconds, remaining = FIRST_WAIT_SECONDS, self._work[name]
        while remaining:
            try:
                await remaining[0]()
                remaining.pop(0)
            except Exception as error:
                self._note(name, as_omnialign_error(error))
                tried.set()
                await asyncio.sleep(wait_seconds)
                wait_seconds = min(2 * wait_seconds, LONGEST_WAIT_SECONDS)
        del self._problems[name]
        self._gauge.labels(name).set(1)
        self._ready(name)
        tried.set()

    def _note(self, name: str, problem: OmnialignError) -> None:
        if problem.message != self._problems[name].message:
            fields = {"rpc_service": name, "reason": problem.reason}
            _log.warning("%s is not ready: %s", name, problem.message, extra=fields)
        self._problems[name] = problem


def _starting(name: str) -> OmnialignError:
    return Unavailable(f"{name} is starting", reason="STARTING")
