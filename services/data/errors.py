"""The typed errors of the data service, and the translation of storage failures to them.

A full disk, a lost race, an S3 server that is down: the storage engines report these by errno, by S3 error code, or
only in prose. Our messages never repeat theirs, which may hold keys and addresses.
"""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import OperationalError

from omnialign import names
from omnialign.errors import (
    Aborted,
    DataLoss,
    FailedPrecondition,
    NotFound,
    OmnialignError,
    ResourceExhausted,
    Unavailable,
)

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# Lance and SQLite report the system's error only as text.
FULL_WORDS = (
    "no space left", "disk is full", "file too large", "quota exceeded", "(os error 28)", "(os error 27)",
    "quotaexceeded", "storagefull", "insufficient storage", "no writable volumes", "no free volumes left",
)  # fmt: skip
CONFLICT_WORDS = ("conflict", "too much write contention", "concurrent")
REFUSED_WORDS = (
    "accessdenied", "invalidaccesskeyid", "signaturedoesnotmatch", "expiredtoken", "invalidtoken",
    "authorizationheadermalformed", "requesttimetooskewed", "403 forbidden", "access denied",
)  # fmt: skip
BUCKET_WORDS = ("nosuchbucket", "bucket does not exist")
AWAY_WORDS = (
    "error sending request", "error decoding response body", "connection refused", "connection reset", "timed out",
    "operation timeout", "slowdown", "serviceunavailable", "internalerror", "500 internal server error",
    "502 bad gateway", "503 service unavailable", "504 gateway timeout", "max retries exceeded",
)  # fmt: skip
S3_WORDS = "generic s3 error"
DAMAGED_WORDS = (
    "corrupt", "invalid magic", "failed to fill whole buffer", "file size is too small", "invalid range",
    "range end index", "invalid utf-8",
)  # fmt: skip
PANIC = "PanicException"
"""What a bug of a library in Rust raises, such as one met in damaged bytes; not an Exception to Python."""


def as_omnialign_error(error: Exception) -> OmnialignError | None:
    """The typed error for a storage failure; None where its text names no cause that is known."""
    words = str(error).lower()
    if (isinstance(error, OSError) and error.errno in FULL) or any(word in words for word in FULL_WORDS):
        return storage_full()
    if S3_WORDS in words and (typed := s3_error(words)) is not None:
        return typed
    if any(word in words for word in CONFLICT_WORDS):
        return Aborted("Too many writers changed the table at once: try again.", reason="COMMIT_CONFLICT")
    return None


def s3_error(words: str) -> OmnialignError | None:
    """The typed error for a failure of an S3 server or of the connection to it. `words` is its text in lower case."""
    if any(word in words for word in BUCKET_WORDS):
        message = "The bucket does not exist: create it, or name another in OMNIALIGN_DATA_OBJECTS_URL."
        return FailedPrecondition(message, reason="S3_BUCKET_MISSING")
    if any(word in words for word in REFUSED_WORDS):
        message = "The S3 server refuses the credentials: check the access key, its secret and its permissions."
        return FailedPrecondition(message, reason="S3_CREDENTIALS_REFUSED")
    if "internalerror" in words and "error performing put" in words:
        return s3_stores_nothing()
    if any(word in words for word in AWAY_WORDS):
        return s3_unavailable()
    return None


def s3_unavailable() -> Unavailable:
    """The error for an S3 server that does not answer, or answers that it cannot serve."""
    message = "The S3 server does not answer: try again, and check OMNIALIGN_DATA_S3_ENDPOINT if that does not help."
    return Unavailable(message, reason="S3_UNAVAILABLE")


def s3_stores_nothing() -> Unavailable:
    """The error for an S3 server that answers but fails every write, as SeaweedFS does when its disk is full."""
    message = "The S3 server answers but fails all writes: it is starting or full. Free space and try again."
    return Unavailable(message, reason="S3_WRITES_FAIL")


def storage_full() -> ResourceExhausted:
    """The error for a disk, a bucket or a quota that is full."""
    return ResourceExhausted("The storage is full: free some space and try again.", reason="STORAGE_FULL")


def not_found(kind: str, name: str) -> NotFound:
    """The error for a resource that does not exist; `kind` is the prefix of its reason."""
    return NotFound(f"There is no {name}.", reason=f"{kind}_NOT_FOUND", metadata={"name": name})


def version_not_found(kind: str, name: str) -> NotFound:
    """The error for a version that does not exist; one of `-`, the newest, if there is none at all.

    A dataset can be without versions; a model without versions is none.
    """
    if names.id_of(name) != names.NEWEST:
        return not_found(kind, name)
    whole = names.unversioned(name)
    message = f"{whole} has no version." if names.matches(whole, names.DATASET) else f"There is no {whole}."
    return NotFound(message, reason=f"{kind}_NOT_FOUND", metadata={"name": name})


def table_damaged(uri: str) -> DataLoss:
    """The error for a table with files that are not what was written."""
    message = f"The table {uri} is damaged: put its folder back from a backup, or import its records again."
    return DataLoss(message, reason="TABLE_DAMAGED", metadata={"table": uri})


@contextmanager
def translate_table_errors(uri: str) -> Iterator[None]:
    """What `translate_storage_errors` does, and DataLoss (`TABLE_DAMAGED`) where the table at `uri` cannot be read."""
    try:
        with translate_storage_errors():
            yield
    except BaseException as error:
        is_unreadable = isinstance(error, OSError | RuntimeError | ValueError) or type(error).__name__ == PANIC
        if is_unreadable and any(word in str(error).lower() for word in DAMAGED_WORDS):
            raise table_damaged(uri) from error
        if type(error).__name__ == PANIC:
            raise RuntimeError(f"the table {uri}: {error}") from error
        raise


@contextmanager
def translate_storage_errors() -> Iterator[None]:
    """Turns storage failures inside the `with` block into typed errors. Other errors pass through."""
    try:
        yield
    except OmnialignError:
        raise
    except (OSError, RuntimeError, ValueError, OperationalError) as error:
        typed = as_omnialign_error(error)
        if typed is None:
            raise
        raise typed from error
