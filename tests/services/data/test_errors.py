"""What storage engines say, and the typed errors that it becomes."""

import errno
import socket

import pytest
from minio.error import InvalidResponseError, S3Error, ServerError
from urllib3 import HTTPResponse
from urllib3.exceptions import MaxRetryError, ProtocolError

from omnialign.errors import Aborted, FailedPrecondition, NotFound, ResourceExhausted, Unavailable
from omnialign.retry import RetryBudget
from services.data.errors import as_omnialign_error
from services.data.objects.s3_client import open_http, sdk_error

LANCE = "LanceError(IO): Generic S3 error: Error performing {} https://h/b in 1ms - {}, /x/object_store.rs:1"


@pytest.mark.parametrize(
    ("words", "kind", "reason"),
    [
        (LANCE.format("GET", "HTTP error: error sending request"), Unavailable, "S3_UNAVAILABLE"),
        (LANCE.format("GET", "503 Service Unavailable"), Unavailable, "S3_UNAVAILABLE"),
        (LANCE.format("PUT", "500 ... <Code>InternalError</Code>"), Unavailable, "S3_WRITES_FAIL"),
        (LANCE.format("GET", "403 Forbidden: <Code>AccessDenied"), FailedPrecondition, "S3_CREDENTIALS_REFUSED"),
        (LANCE.format("GET", "<Code>SignatureDoesNotMatch"), FailedPrecondition, "S3_CREDENTIALS_REFUSED"),
        (LANCE.format("GET", "404: <Code>NoSuchBucket</Code>"), FailedPrecondition, "S3_BUCKET_MISSING"),
        (LANCE.format("PUT", "<Code>QuotaExceeded</Code>"), ResourceExhausted, "STORAGE_FULL"),
        ("Too many concurrent writers", Aborted, "COMMIT_CONFLICT"),
        ("LanceError(IO): ... (os error 28)", ResourceExhausted, "STORAGE_FULL"),
    ],
)
def test_words_of_lance_become_typed_errors(words: str, kind: type, reason: str) -> None:
    found = as_omnialign_error(OSError(words))
    assert isinstance(found, kind)
    assert found.reason == reason


def test_a_full_disk_is_known_by_its_number_and_other_errors_are_not_ours() -> None:
    assert as_omnialign_error(OSError(errno.ENOSPC, "x")).reason == "STORAGE_FULL"  # type: ignore[union-attr]
    assert as_omnialign_error(ValueError("the schema differs")) is None


def s3_error(code: str, status: int = 400) -> S3Error:
    return S3Error(HTTPResponse(status=status), code, "a message with AKIASECRET in it", "/b/k", "r", "h", "b", "k")


@pytest.mark.parametrize(
    ("error", "operation", "kind", "reason"),
    [
        (s3_error("NoSuchKey", 404), "get", NotFound, "OBJECT_NOT_FOUND"),
        (s3_error("NoSuchBucket", 404), "get", FailedPrecondition, "S3_BUCKET_MISSING"),
        (s3_error("InvalidAccessKeyId", 403), "get", FailedPrecondition, "S3_CREDENTIALS_REFUSED"),
        (s3_error("AccessDenied", 403), "put", FailedPrecondition, "S3_CREDENTIALS_REFUSED"),
        (s3_error("ExpiredToken"), "put", FailedPrecondition, "S3_CREDENTIALS_REFUSED"),
        (s3_error("XMinioStorageFull", 507), "put", ResourceExhausted, "STORAGE_FULL"),
        (s3_error("QuotaExceeded", 403), "put", ResourceExhausted, "STORAGE_FULL"),
        (s3_error("SlowDown", 503), "put", Unavailable, "S3_UNAVAILABLE"),
        (s3_error("InternalError", 500), "get", Unavailable, "S3_UNAVAILABLE"),
        (s3_error("InternalError", 500), "put", Unavailable, "S3_WRITES_FAIL"),
        (ServerError("server failed", 502), "get", Unavailable, "S3_UNAVAILABLE"),
        (ServerError("server failed", 507), "put", ResourceExhausted, "STORAGE_FULL"),
        (InvalidResponseError(503, "text/html", "<h1>AKIASECRET"), "get", Unavailable, "S3_UNAVAILABLE"),
        (ProtocolError("connection broken"), "get", Unavailable, "S3_UNAVAILABLE"),
        (MaxRetryError(None, "/b/k?AKIASECRET", None), "get", Unavailable, "S3_UNAVAILABLE"),  # type: ignore[arg-type]
    ],
)
def test_failures_of_the_sdk_become_typed_errors_without_its_words(
    error: Exception, operation: str, kind: type, reason: str
) -> None:
    found = sdk_error(error, "k", operation)
    assert isinstance(found, kind)
    assert found.reason == reason
    assert "SECRET" not in found.message


def test_a_connection_to_a_server_that_vanished_is_given_up_within_25_seconds() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    http = open_http(None, budget=RetryBudget())
    pool = http.connection_from_host("127.0.0.1", listener.getsockname()[1], scheme="http")
    connection = pool._get_conn()
    connection.connect()
    limits = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT, socket.TCP_USER_TIMEOUT)
    idle, interval, count, pending_ms = (connection.sock.getsockopt(socket.IPPROTO_TCP, limit) for limit in limits)
    assert connection.sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    assert idle + interval * count <= 25
    assert pending_ms <= 25_000
    connection.close()
    listener.close()
