"""The health service (grpc.health.v1), readable at any moment and settable without waiting.

Names: one per service, for readiness; `liveness`, which serves as soon as the event loop does and until the end; and
the empty name for the whole process. That one turns to SERVING once every service has been ready, and back
only when the server drains: a service that is briefly not ready is no reason to restart the process.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

LIVENESS = "liveness"

Status = health_pb2.HealthCheckResponse


class Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc]
    """Statuses by name, and those who watch them."""

    def __init__(self) -> None:
        self._statuses: dict[str, int] = {"": Status.NOT_SERVING, LIVENESS: Status.SERVING}
        self._pending: set[str] = set()
        self._draining = False
        self._changed = asyncio.Event()

    def add(self, name: str) -> None:
        """Makes a service known, not ready."""
        self._statuses[name] = Status.NOT_SERVING
        self._pending.add(name)
        self._announce()

    def set(self, name: str | None, *, serving: bool) -> None:
        """Sets the status of one service, or of all for None. Draining is final. Raises KeyError for a strange name."""
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
        """The status of a name; NOT_FOUND for one that is not known, so that a misspelt probe shows."""
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
        """Wakes the watchers. A new event each time, so that none misses a change while it writes."""
        self._changed, old = asyncio.Event(), self._changed
        old.set()
