"""What clients are told about an exception of a handler: a `google.rpc.Status` with ErrorInfo and other details.

Our own errors map to themselves. A full disk is RESOURCE_EXHAUSTED, wherever it shows. Anything else is a bug:
INTERNAL, with a message that reveals nothing; the log has the traceback under the request id.
"""

import errno
import logging
import sqlite3
from collections.abc import Iterator

from google.protobuf import duration_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2

from omnialign.client.context import request_id
from omnialign.errors import BY_CODE, DeadlineExceeded, Internal, OmnialignError, ResourceExhausted, to_status
from services.runtime.context import remaining_seconds

_log = logging.getLogger(__name__)

RETRY_AFTER = "retry_after_seconds"
"""Metadata key of the seconds after which to retry a call; sent as RetryInfo too."""

# Details travel in HTTP/2 trailers, whose default limit is 8 KiB; past it the client sees another error altogether.
_MAX_STATUS_BYTES = 4096
_MAX_MESSAGE_CHARACTERS = 1024


def as_omnialign_error(error: Exception) -> OmnialignError:
    """The error to send for `error`. Logs the traceback of unexpected ones."""
    if isinstance(error, OmnialignError):
        return error
    if any(map(_is_storage_full, _chain(error))):
        _log.error("storage is full: %s", error)
        return ResourceExhausted("The service's storage is full; free space and retry", reason="STORAGE_FULL")
    if isinstance(error, TimeoutError) and remaining_seconds() == 0:
        return DeadlineExceeded("The deadline passed during the call; allow more time", reason="DEADLINE_EXCEEDED")
    _log.exception("unexpected %s in a handler", type(error).__name__, exc_info=error)
    return Internal(
        f"The service failed unexpectedly; its log has the cause under the request id {request_id()}",
        reason="INTERNAL",
        metadata={"request_id": request_id()},
    )


def rich_status(error: OmnialignError) -> status_pb2.Status:
    """`error` as a status, with RetryInfo if its metadata says when to retry, trimmed to fit into trailers."""
    status = to_status(error)
    if error.code == code_pb2.UNKNOWN:  # the bare base class: no code of its own
        status.code = code_pb2.INTERNAL
    if RETRY_AFTER in error.metadata:
        delay = duration_pb2.Duration()
        delay.FromNanoseconds(int(float(error.metadata[RETRY_AFTER]) * 1e9))
        status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=delay))
    return status if status.ByteSize() <= _MAX_STATUS_BYTES else _trimmed(error)


def _trimmed(error: OmnialignError) -> status_pb2.Status:
    """The same error with message and metadata cut, and with as many violations as fit."""
    metadata = {key: value[:128] for key, value in list(error.metadata.items())[:8]}
    cls = BY_CODE.get(error.code, Internal)  # not type(error): a subclass may have its own constructor
    short = cls(error.message[:_MAX_MESSAGE_CHARACTERS], reason=error.reason, metadata=metadata)
    violations = [(field[:128], description[:256]) for field, description in error.violations]
    for count in range(min(len(violations), 32), -1, -1):
        short.violations = tuple(violations[:count])
        status = to_status(short)
        if status.ByteSize() <= _MAX_STATUS_BYTES:
            break
    return status


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__


def _is_storage_full(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    return isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL
