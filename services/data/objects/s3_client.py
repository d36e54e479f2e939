"""The connection to an S3 server: HTTP client, certificates, retries within a budget, metrics, typed errors."""

import os
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import certifi
import urllib3
from minio.error import InvalidResponseError, S3Error, ServerError
from prometheus_client import CollectorRegistry, Counter, Histogram
from urllib3.connection import HTTPConnection
from urllib3.util import Retry, Timeout

from omnialign.errors import FailedPrecondition, Internal, NotFound, OmnialignError
from omnialign.retry import RetryBudget
from services.data.errors import s3_error, s3_stores_nothing, s3_unavailable, storage_full
from services.data.objects.base import object_not_found

NOT_FOUND_CODES = ("NoSuchKey", "NoSuchObject", "NoSuchVersion", "MethodNotAllowed")
FULL_CODES = (
    "QuotaExceeded", "QuotaExceededException", "XMinioStorageFull", "XMinioAdminBucketQuotaExceeded", "StorageFull",
    "InsufficientStorage", "EntityTooLargeForQuota",
)  # fmt: skip
INSUFFICIENT_STORAGE = 507
WRITES = ("put", "copy")
CONNECT_SECONDS, READ_SECONDS = 5.0, 120.0
# A server that vanished is noticed within 25 seconds, in the middle of a request and between requests alike; one that
# is slow to answer keeps its connection alive and is given `READ_SECONDS`.
KEEPALIVE = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 25_000),
)
ATTEMPTS = 4
CONNECTIONS = 16
TRANSIENT_STATUSES = (500, 502, 503, 504)


@dataclass(frozen=True)
class S3Settings:
    """Which bucket of which server, and how to reach it."""

    bucket: str
    prefix: str
    """Prepended to every key; empty, or without a `/` at either end."""
    endpoint: str
    """`https://host:port`; empty means AWS."""
    region: str
    path_style: bool
    """Whether the bucket is in the path instead of the host name."""
    ca_file: Path | None
    public_endpoint: str = ""
    """Endpoint in presigned URLs; empty means `endpoint`."""


class BudgetedRetry(Retry):
    """Retries with exponential backoff, as long as the shared budget lasts.

    When most requests fail, the budget runs out and retries stop: more load does not help a server that is down.
    """

    budget: RetryBudget

    def new(self, **changes: Any) -> "BudgetedRetry":
        """A changed copy that shares the budget."""
        copy = super().new(**changes)
        copy.budget = self.budget
        return copy

    def increment(self, *args: Any, **kwargs: Any) -> "BudgetedRetry":
        """Counts a failure; raises MaxRetryError when no attempt or no budget is left."""
        if not self.budget.failed():
            spent = self.new(total=0, connect=0, read=0, status=0, other=0)
            Retry.increment(spent, *args, **kwargs)  # raises
        return super().increment(*args, **kwargs)


def open_http(ca_file: Path | None, *, budget: RetryBudget) -> urllib3.PoolManager:
    """A connection pool that trusts the system's certificates and those in `ca_file`."""
    trust = ssl.create_default_context()
    if ca_file is not None:
        trust.load_verify_locations(cafile=str(ca_file))
    retries = BudgetedRetry(
        total=ATTEMPTS - 1,
        backoff_factor=0.2,
        backoff_max=2.0,
        backoff_jitter=0.1,
        status_forcelist=TRANSIENT_STATUSES,
        allowed_methods=None,  # all our requests are idempotent: they name a key, and a put replaces the object whole
        raise_on_status=False,
        respect_retry_after_header=False,
    )
    retries.budget = budget
    return urllib3.PoolManager(
        maxsize=CONNECTIONS,
        block=False,
        ssl_context=trust,
        timeout=Timeout(connect=CONNECT_SECONDS, read=READ_SECONDS),
        socket_options=[*HTTPConnection.default_socket_options, *KEEPALIVE],
        retries=retries,
    )


def trust_ca_in_lance(ca_file: Path, *, bundle: Path) -> None:
    """Makes Lance trust `ca_file` too: on its first connection it reads one file, which SSL_CERT_FILE names.

    The file written to `bundle` also holds the system's certificates, since other code in the process reads it.
    """
    candidates = (os.environ.get("SSL_CERT_FILE"), ssl.get_default_verify_paths().cafile, certifi.where())
    known = next(Path(file) for file in candidates if file and Path(file).is_file())
    if known != bundle:
        bundle.parent.mkdir(parents=True, exist_ok=True)
        bundle.write_bytes(known.read_bytes() + b"\n" + ca_file.read_bytes())
        os.environ["SSL_CERT_FILE"] = str(bundle)


BUCKETS_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


class S3Metrics:
    """Requests, their duration, and bytes. Dashboards and alerts rely on the names."""

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
        """Counts and times the `with` block. Its result is `ok`, `missing` or the reason of the error."""
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
            raise  # the reader stopped early, which is not a failure
        except BaseException:
            result = "INTERNAL"
            raise
        finally:
            self.requests.labels(operation, result).inc()
            self.duration.labels(operation).observe(time.monotonic() - begun)


def sdk_error(error: Exception, key: str, operation: str) -> OmnialignError:
    """The typed error for an exception of the SDK or of the connection."""
    if isinstance(error, ServerError | InvalidResponseError):
        return storage_full() if _status(error) == INSUFFICIENT_STORAGE else s3_unavailable()
    if not isinstance(error, S3Error):
        return _untrusted() if "CERTIFICATE_VERIFY_FAILED" in str(error) else s3_unavailable()
    if error.code in NOT_FOUND_CODES:
        return object_not_found(key)
    if error.code in FULL_CODES or error.response.status == INSUFFICIENT_STORAGE:
        return storage_full()
    typed = s3_error(str(error.code).lower())
    if operation in WRITES and error.code == "InternalError":
        return s3_stores_nothing()
    if typed is not None:
        return typed
    if error.response.status >= 500:
        return s3_unavailable()
    return Internal(f"The S3 server refused an operation with {error.code}.", reason="S3_REFUSED")


def _untrusted() -> FailedPrecondition:
    message = "The S3 server's certificate is not trusted: name the file of its authority in OMNIALIGN_DATA_S3_CA_FILE."
    return FailedPrecondition(message, reason="S3_CERTIFICATE_UNTRUSTED")


def _status(error: ServerError | InvalidResponseError) -> int:
    return error.status_code if isinstance(error, ServerError) else int(getattr(error, "_code", 0))
