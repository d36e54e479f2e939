"""Prometheus metrics of the calls a server answers: rate, errors, duration, in flight, and messages of streams.

Each server has its own registry, so that several can live in one process; services add their own metrics to it. The
names are promises: dashboards and alerts use them. Labels are bounded: methods come from the contract, and a method
that does not exist counts as `unknown`.
"""

from functools import lru_cache

import grpc
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    Info,
    PlatformCollector,
    ProcessCollector,
)

import omnialign

BUCKETS_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
UNKNOWN = "unknown"


def make_registry(name: str) -> CollectorRegistry:
    """A registry with facts of the process and of the build; `name` is the service's name."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    build = Info("omnialign_build", "The software that runs here.", registry=registry)
    build.info({"component": name, "version": omnialign.__version__})
    return registry


class RpcMetrics:
    """The call metrics of one server."""

    def __init__(self, registry: CollectorRegistry) -> None:
        method = ("service", "method")
        self.requests = Counter("omnialign_rpc_requests_total", "Finished calls.", (*method, "code"), registry=registry)
        self.duration = Histogram(
            "omnialign_rpc_duration_seconds",
            "Time from the first message of a call to its end.",
            method,
            buckets=BUCKETS_SECONDS,
            registry=registry,
        )
        self.in_flight = Gauge("omnialign_rpc_in_flight", "Calls being answered.", method, registry=registry)
        self.messages = Counter(
            "omnialign_rpc_stream_messages_total",
            "Messages of streams, by direction seen from the server.",
            (*method, "direction"),
            registry=registry,
        )

    def of_method(self, service: str, method: str) -> "MethodMetrics":
        """The series of one method. Callers keep them, because looking labels up costs more than counting."""
        return MethodMetrics(self, service, method)

    def count_unknown(self) -> None:
        """Counts a call of a method that does not exist."""
        self.requests.labels(UNKNOWN, UNKNOWN, grpc.StatusCode.UNIMPLEMENTED.name).inc()


class MethodMetrics:
    """The series of one method."""

    def __init__(self, metrics: RpcMetrics, service: str, method: str) -> None:
        labels = (service, method)
        self.duration = metrics.duration.labels(*labels)
        self.in_flight = metrics.in_flight.labels(*labels)
        self.received = metrics.messages.labels(*labels, "received")
        self.sent = metrics.messages.labels(*labels, "sent")
        self._requests = lru_cache(maxsize=32)(lambda code: metrics.requests.labels(*labels, code))
        self._requests("OK")  # so that the rate of errors has a denominator from the start

    def started(self) -> None:
        """A call began."""
        self.in_flight.inc()

    def finished(self, code: str, seconds: float) -> None:
        """A call ended with the status named `code` after `seconds`."""
        self.in_flight.dec()
        self._requests(code).inc()
        self.duration.observe(seconds)
