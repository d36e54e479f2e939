"""Health: what a service must do before it can serve, and what it answers to probes (grpc.health.v1).

Names of the health service: one per service, for readiness; `liveness`, SERVING as long as the event loop runs; and the
empty name for the whole process. That one turns to SERVING once every service has been ready, and back only when the
server drains: a service that is briefly not ready is no reason to restart the process.

A service whose database or object store is away does not crash: it runs, is NOT_SERVING, refuses calls with the cause,
and serves as soon as its startup steps have succeeded. They are tried again until they do.

While it runs, what it needs is checked every few seconds. When two checks in a row fail it is NOT_SERVING, so that new
work goes elsewhere, and SERVING again after two that succeed. Its calls are answered all the same: what is under way
goes on, and a call that does not need what is missing succeeds.
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

CHECK_SECONDS = 2.0
LATE_SECONDS = 2.5
"""After how long a check without an answer counts as failed."""
CHECKS_TO_TURN = 2
"""With these, a service that needs something follows its coming and going within ten seconds."""

StartupStep = Callable[[], Awaitable[None]]
Check = Callable[[], Awaitable[object]]

_log = logging.getLogger(__name__)


class Readiness:
    """What the services of a server need: first to start, then to go on.

    `ready` is called with each service that has become ready, `lost` with each that is no longer.
    """

    def __init__(
        self, registry: CollectorRegistry, *, ready: Callable[[str], None], lost: Callable[[str], None] = lambda _: None
    ) -> None:
        self._ready, self._lost = ready, lost
        self._steps: dict[str, list[StartupStep]] = {}
        self._checks: dict[str, list[Check]] = {}
        self._starting: dict[str, OmnialignError] = {}
        self._missing: dict[str, OmnialignError] = {}
        """What started services lack at the moment."""
        self._tasks: list[asyncio.Task[None]] = []
        self._gauge = Gauge(
            "omnialign_ready",
            "Whether the service has what it needs, checked every two seconds.",
            ("service",),
            registry=registry,
        )

    def show(self, name: str) -> None:
        """Adds a service to the metrics, as ready unless it has startup steps left."""
        self._gauge.labels(name).set(self.is_ready(name))

    def add(self, name: str, step: StartupStep, *, check: Check | None = None) -> None:
        """Adds a step that a service needs before it serves; steps run in the order in which they were added.

        `check` raises while what the step provided is missing.
        """
        self._steps.setdefault(name, []).append(step)
        if check is not None:
            self._checks.setdefault(name, []).append(check)
        self._starting.setdefault(name, _starting(name))
        self._gauge.labels(name).set(0)

    def is_ready(self, name: str) -> bool:
        """Whether a service has started and lacks nothing."""
        return name not in self._starting and name not in self._missing

    def require(self, name: str) -> None:
        """Raises Unavailable (`NOT_READY`, with the cause) while a service has startup steps left."""
        if self._starting and (problem := self._starting.get(name)) is not None:
            message = f"The service is not ready: {problem.message}"
            raise Unavailable(message, reason="NOT_READY", metadata={"service": name, "cause": problem.reason})

    async def start(self) -> None:
        """Tries the steps of each service once; those that fail are retried in the background."""
        first = {name: asyncio.Event() for name in self._steps}
        self._tasks = [asyncio.create_task(self._run(name, first[name]), name=f"readiness {name}") for name in first]
        await asyncio.gather(*(event.wait() for event in first.values()))

    def problems(self) -> list[OmnialignError]:
        """What currently keeps services from being ready."""
        return [*self._starting.values(), *self._missing.values()]

    async def close(self) -> None:
        """Gives up on steps that have not succeeded, and stops checking."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _run(self, name: str, tried: asyncio.Event) -> None:
        await self._prepare(name, tried)
        if name in self._checks:
            await self._follow(name)

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
        del self._starting[name]
        self._gauge.labels(name).set(1)
        self._ready(name)
        tried.set()

    def _note(self, name: str, problem: OmnialignError) -> None:
        if problem.message != self._starting[name].message:
            _warn(name, problem)
        self._starting[name] = problem

    async def _follow(self, name: str) -> None:
        """Checks for ever. One check that differs from those before it may be chance and changes nothing."""
        num_others = 0
        async for problem in self._problems_of(name):
            is_other = (problem is None) != self.is_ready(name)
            num_others = num_others + 1 if is_other else 0
            if num_others == CHECKS_TO_TURN:
                num_others = 0
                self._turn(name, problem)

    async def _problems_of(self, name: str) -> AsyncIterator[OmnialignError | None]:
        """What each check of a service finds; None where it lacks nothing."""
        check: asyncio.Task[OmnialignError | None] | None = None
        try:
            while True:
                await asyncio.sleep(CHECK_SECONDS)
                # One that hangs is waited for in the next round: more of them would fill the threads.
                check = check or asyncio.create_task(_first_problem(self._checks[name]))
                done, _ = await asyncio.wait({check}, timeout=LATE_SECONDS)
                yield check.result() if done else _late(name)
                check = None if done else check
        finally:
            if check is not None:
                check.cancel()

    def _turn(self, name: str, problem: OmnialignError | None) -> None:
        if problem is None:
            del self._missing[name]
            _log.info("%s is ready again", name, extra={"rpc_service": name})
            self._ready(name)
        else:
            self._missing[name] = problem
            _warn(name, problem)
            self._lost(name)
        self._gauge.labels(name).set(problem is None)


async def _first_problem(checks: list[Check]) -> OmnialignError | None:
    try:
        for check in checks:
            await check()
    except Exception as error:
        return as_omnialign_error(error)
    return None


def _warn(name: str, problem: OmnialignError) -> None:
    fields = {"rpc_service": name, "reason": problem.reason}
    _log.warning("%s is not ready: %s", name, problem.message, extra=fields)


def _starting(name: str) -> OmnialignError:
    return Unavailable(f"{name} is starting", reason="STARTING")


def _late(name: str) -> OmnialignError:
    return Unavailable(f"A check of what {name} needs took longer than {LATE_SECONDS:g} s", reason="CHECK_LATE")
