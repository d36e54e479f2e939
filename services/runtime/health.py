"""Health: what a service must do before it can serve, and what it answers to probes (grpc.health.v1).

Names of the health service: one per service, for readiness; `liveness`, SERVING as long as the event loop runs; and the
empty name for the whole process. That one turns to SERVING once every service has been ready, and back only when the
server drains: a service that is briefly not ready is no reason to restart the process.

A service whose database or object store is away does not crash: it runs, is NOT_SERVING, refuses calls with the cause,
and serves as soon as its startup steps have succeeded. They are tried again until they do.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client import CollectorRegistry, Gauge

from omnialign.errors import OmnialignError, Unavailable
from omnialign.retry import RetryPolicy
from services.runtime.errors import as_omnialign_error

LIVENESS = "liveness"

Status = health_pb2.HealthCheckResponse


class Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc]
    """The status of each name, and the clients that watch them."""

    def __init__(self) -> None:
        self._statuses: dict[str, int] = {"": Status.NOT_SERVING, LIVENESS: Status.SERVING}
        self._pending: set[str] = set()
        self._draining = False
        self._changed = asyncio.Event()

    def add(self, name: str) -> None:
        """Adds a service, NOT_SERVING at first."""
        self._statuses[name] = Status.NOT_SERVING
        self._pending.add(name)
        self._announce()

    def set(self, name: str | None, *, serving: bool) -> None:
        """Sets the status of one service, or of all for None. Draining is final. Raises KeyError for a new name."""
        if name is not None and name not in self._statuses:
            raise KeyError(name)
        if self._draining:
            return
        names = [name] if name is not None else [known for known in self._statuses if known not in ("", LIVENESS)]
        for known in names:
            self._statuses[known] = Status.SERVING if serving else Status.NOT_SERVING
        if serving:
            self._pending.difference_update(names)
            if not self._pending:
                self._statuses[""] = Status.SERVING
        elif name is None:
            self._statuses[""] = Status.NOT_SERVING
        self._announce()

    def drain(self) -> None:
        """Everything but liveness is NOT_SERVING from now on."""
        self.set(None, serving=False)
        self._draining = True

    async def Check(self, request: Any, context: Any) -> Any:  # noqa: N802
        """The status of a name; NOT_FOUND for an unknown one, so that a misspelt probe is noticed."""
        status = self._statuses.get(request.service)
        if status is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"unknown service '{request.service[:200]}'")
        return Status(status=status)

    async def List(self, request: Any, context: Any) -> Any:  # noqa: N802
        """All statuses."""
        statuses = {name: Status(status=status) for name, status in self._statuses.items()}
        return health_pb2.HealthListResponse(statuses=statuses)

    async def Watch(self, request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
        """The status of a name now, and whenever it changes."""
        last = None
        while True:
            changed = self._changed
            status = self._statuses.get(request.service, Status.SERVICE_UNKNOWN)
            if status != last:
                last = status
                yield Status(status=status)
            await changed.wait()

    def _announce(self) -> None:
        """Wakes the watchers. Each change has an event of its own, so that a watcher misses none while it writes."""
        self._changed, old = asyncio.Event(), self._changed
        old.set()


STARTUP_RETRIES = RetryPolicy(base_seconds=0.25, cap_seconds=10.0)

StartupStep = Callable[[], Awaitable[None]]

_log = logging.getLogger(__name__)


class Readiness:
    """The startup steps of all services of a server. `ready` is called with each service whose steps have succeeded."""

    def __init__(self, registry: CollectorRegistry, *, ready: Callable[[str], None]) -> None:
        self._ready = ready
        self._steps: dict[str, list[StartupStep]] = {}
        self._problems: dict[str, OmnialignError] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._gauge = Gauge(
            "omnialign_ready", "Whether the service has connected to what it needs.", ("service",), registry=registry
        )

    def show(self, name: str) -> None:
        """Adds a service to the metrics, as ready unless it has startup steps left."""
        self._gauge.labels(name).set(self.is_ready(name))

    def add(self, name: str, step: StartupStep) -> None:
        """Adds a step that a service needs before it serves; steps run in the order in which they were added."""
        self._steps.setdefault(name, []).append(step)
        self._problems.setdefault(name, _starting(name))
        self._gauge.labels(name).set(0)

    def is_ready(self, name: str) -> bool:
        """Whether a service has no startup steps left."""
        return name not in self._problems

    def require(self, name: str) -> None:
        """Raises Unavailable (`NOT_READY`, with the cause) while a service has startup steps left."""
        if self._problems and (problem := self._problems.get(name)) is not None:
            message = f"The service is not ready: {problem.message}"
            raise Unavailable(message, reason="NOT_READY", metadata={"service": name, "cause": problem.reason})

    async def start(self) -> None:
        """Tries the steps of each service once; those that fail are retried in the background."""
        first = {name: asyncio.Event() for name in self._steps}
        self._tasks = [asyncio.create_task(self._prepare(name, first[name]), name=f"prepare {name}") for name in first]
        await asyncio.gather(*(event.wait() for event in first.values()))

    def problems(self) -> list[OmnialignError]:
        """What currently keeps services from being ready."""
        return list(self._problems.values())

    async def close(self) -> None:
        """Gives up on steps that have not succeeded."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _prepare(self, name: str, tried: asyncio.Event) -> None:
        num_failures, remaining = 0, self._steps[name]
        while remaining:
            try:
                await remaining[0]()
                remaining.pop(0)  # a step that succeeded is not run again when a later one fails
            except Exception as error:
                self._note(name, as_omnialign_error(error))
                tried.set()
                num_failures += 1  # without a budget: a database may be away for hours, and the pod need not restart
                await asyncio.sleep(STARTUP_RETRIES.pause_seconds(num_failures))
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
