"""Metrics of an S3 server as this service sees it. The names are promises: dashboards and alerts use them."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Histogram

from omnialign.errors import NotFound, OmnialignError

BUCKETS_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


class S3Metrics:
    """Requests, their time, and bytes."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.requests = Counter(
            "omnialign_s3_requests_total", "Finished operations on S3.", ("operation", "result"), registry=registry
        )
        self.duration = Histogram(
            "omnialign_s3_request_duration_seconds",
            "Time of an operation on S3, retries included.",
            ("operation",),
            buckets=BUCKETS_SECONDS,
            registry=registry,
        )
        self.bytes = Counter(
            "omnialign_s3_bytes_total", "Bytes of objects moved, `in` from S3.", ("direction",), registry=registry
        )

    @contextmanager
    def measured(self, operation: str) -> Iterator[None]:
        """Counts and times what happens within. A result is `ok`, `missing` or the reason of the failure."""
        begun, result = time.monotonic(), "ok"
        try:
            yield
        except NotFound:
            result = "missing"
            raise
        except OmnialignError as error:
            result = error.reason
            raise
        except GeneratorExit:
            raise  # the reader has had enough
        except BaseException:
            result = "INTERNAL"
            raise
        finally:
            self.requests.labels(operation, result).inc()
            self.duration.labels(operation).observe(time.monotonic() - begun)
