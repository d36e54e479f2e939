"""Metrics and log lines of the requests that the console answers. Labels are routes of ours, not what callers send."""

import logging
import time
import uuid
from collections.abc import Callable, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from starlette.routing import BaseRoute, Match, Mount, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.runtime.metrics import BUCKETS_SECONDS

_log = logging.getLogger(__name__)

UNKNOWN = "unknown"
METHODS = frozenset({"GET", "HEAD", "POST", "OPTIONS"})


class HttpMetrics:
    """The series of one server."""

    def __init__(self, registry: CollectorRegistry) -> None:
        labels = ("route", "method")
        self.requests = Counter(
            "omnialign_console_requests_total", "Requests that were answered.", (*labels, "status"), registry=registry
        )
        self.duration = Histogram(
            "omnialign_console_request_duration_seconds",
            "Time to the first byte of an answer.",
            labels,
            buckets=BUCKETS_SECONDS,
            registry=registry,
        )
        self.in_flight = Gauge("omnialign_console_in_flight", "Requests being answered.", registry=registry)
        self.streams = Gauge("omnialign_console_event_streams", "Browsers that follow a job.", registry=registry)


class Measured:
    """Measures and logs each request."""

    def __init__(self, app: ASGIApp, *, metrics: HttpMetrics, route_of: Callable[[Scope], str]) -> None:
        self._app, self._metrics, self._route_of = app, metrics, route_of

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, route = time.monotonic(), self._route_of(scope)
        method = scope["method"] if scope["method"] in METHODS else UNKNOWN
        status = 500

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                self._metrics.duration.labels(route, method).observe(time.monotonic() - started)
            await send(message)

        self._metrics.in_flight.inc()
        try:
            await self._app(scope, receive, noted)
        finally:
            self._metrics.in_flight.dec()
            self._metrics.requests.labels(route, method, str(status)).inc()
            level = logging.DEBUG if status < 400 else logging.INFO
            fields = {"route": route, "status": status, "request_id": uuid.uuid4().hex}
            fields["duration_ms"] = round((time.monotonic() - started) * 1000, 3)
            _log.log(level, "%s %s %s", method, route, status, extra=fields)


def route_finder(routes: Sequence[BaseRoute]) -> Callable[[Scope], str]:
    """Tells the route that answers a request, as it is written in the code."""

    def find(scope: Scope) -> str:
        return _path_of(scope, routes)

    return find


def _path_of(scope: Scope, routes: Sequence[BaseRoute]) -> str:
    for route in routes:
        match, child = route.matches(scope)
        if match is not Match.NONE and isinstance(route, Route):
            return route.path
        if match is not Match.NONE and isinstance(route, Mount):
            inner = _path_of({**scope, **child}, route.routes)
            return route.path + inner if inner != UNKNOWN else UNKNOWN
    return UNKNOWN
