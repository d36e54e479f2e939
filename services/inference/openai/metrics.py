"""Prometheus metrics of OpenAI-compatible endpoints. The names are promises: dashboards and alerts use them.

The label `endpoint` is a base URL, and there are as many of them as the operator allows.
"""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from services.inference.metrics import OUTCOMES, SECONDS

REASONS = ("rate_limit", "overload", "server", "connection", "timeout")


class EndpointMetrics:
    """The metrics of all endpoints of one engine, in the registry of its server."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.requests = Counter(
            "omnialign_endpoint_requests_total",
            "Requests to an OpenAI-compatible endpoint by outcome: end, stop, length, error, cancelled.",
            ("endpoint", "outcome"),
            registry=registry,
        )
        self.retries = Counter(
            "omnialign_endpoint_retries_total",
            "Tries that failed for a passing reason: rate_limit, overload, server, connection, timeout.",
            ("endpoint", "reason"),
            registry=registry,
        )
        self.tokens = Counter(
            "omnialign_endpoint_tokens_total",
            "Tokens read (in) and written (out), as the endpoint counts them.",
            ("endpoint", "direction"),
            registry=registry,
        )
        self.limit = Gauge(
            "omnialign_endpoint_concurrency_limit",
            "Requests that may be at the endpoint at the same time.",
            ("endpoint",),
            registry=registry,
        )
        self.running = Gauge(
            "omnialign_endpoint_requests_running", "Requests at the endpoint.", ("endpoint",), registry=registry
        )
        self.seconds = Histogram(
            "omnialign_endpoint_request_seconds",
            "Time of the try that was answered.",
            ("endpoint",),
            buckets=SECONDS,
            registry=registry,
        )

    def prepare(self, endpoint: str) -> None:
        """Starts the series of an endpoint at 0, so that its first error is an increase and not a new series."""
        for outcome in OUTCOMES:
            self.requests.labels(endpoint, outcome)
        for reason in REASONS:
            self.retries.labels(endpoint, reason)
        for direction in ("in", "out"):
            self.tokens.labels(endpoint, direction)
        self.seconds.labels(endpoint)
