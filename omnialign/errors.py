"""The errors of omnialign: one tree, shared by services and clients.

    OmnialignError
    ├── InvalidArgument      INVALID_ARGUMENT     the request can never succeed as it is
    ├── NotFound             NOT_FOUND            no such resource
    ├── AlreadyExists        ALREADY_EXISTS       the id is taken
    ├── PermissionDenied     PERMISSION_DENIED    the caller may not
    ├── Unauthenticated      UNAUTHENTICATED      the caller is unknown
    ├── FailedPrecondition   FAILED_PRECONDITION  not in this state
    ├── Aborted              ABORTED              lost a race; read again and retry
    ├── ResourceExhausted    RESOURCE_EXHAUSTED   a quota, a queue or a disk is full
    ├── Unavailable          UNAVAILABLE          a backend is down; retry with backoff
    ├── DeadlineExceeded     DEADLINE_EXCEEDED    it took longer than the caller gave
    ├── Cancelled            CANCELLED            the caller went away
    ├── DataLoss             DATA_LOSS            stored bytes are not what they were
    └── Internal             INTERNAL             our own fault

Each error has a `reason` (UPPER_SNAKE, a promise to clients), a message of one sentence that says what to do, and
`metadata` with every dynamic part of that message (AIP-193).
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar

from google.rpc import code_pb2, error_details_pb2, status_pb2

DOMAIN = "omnialign"


class OmnialignError(Exception):
    """Base of all errors. `violations` are (field path, what is wrong) of a bad request."""

    code: ClassVar[int] = code_pb2.UNKNOWN

    def __init__(
        self,
        message: str,
        *,
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
        violations: Sequence[tuple[str, str]] = (),
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason or code_pb2.Code.Name(self.code)
        self.metadata = dict(metadata or {})
        self.violations = tuple(violations)


class InvalidArgument(OmnialignError):
    """The request can never succeed as it is."""

    code = code_pb2.INVALID_ARGUMENT


class NotFound(OmnialignError):
    """No such resource."""

    code = code_pb2.NOT_FOUND


class AlreadyExists(OmnialignError):
    """The id is taken."""

    code = code_pb2.ALREADY_EXISTS


class PermissionDenied(OmnialignError):
    """The caller may not do this."""

    code = code_pb2.PERMISSION_DENIED


class Unauthenticated(OmnialignError):
    """The caller is unknown."""

    code = code_pb2.UNAUTHENTICATED


class FailedPrecondition(OmnialignError):
    """The resource is not in a state that allows this."""

    code = code_pb2.FAILED_PRECONDITION


class Aborted(OmnialignError):
    """Lost a race: read again and retry."""

    code = code_pb2.ABORTED


class ResourceExhausted(OmnialignError):
    """A quota, a queue or a disk is full."""

    code = code_pb2.RESOURCE_EXHAUSTED


class Unavailable(OmnialignError):
    """A backend is down: retry with backoff."""

    code = code_pb2.UNAVAILABLE


class DeadlineExceeded(OmnialignError):
    """It took longer than the caller gave."""

    code = code_pb2.DEADLINE_EXCEEDED


class Cancelled(OmnialignError):
    """The caller went away."""

    code = code_pb2.CANCELLED


class DataLoss(OmnialignError):
    """Stored bytes are not what they were."""

    code = code_pb2.DATA_LOSS


class Internal(OmnialignError):
    """Our own fault."""

    code = code_pb2.INTERNAL


BY_CODE: dict[int, type[OmnialignError]] = {cls.code: cls for cls in OmnialignError.__subclasses__()}


def to_status(error: OmnialignError) -> status_pb2.Status:
    """The error as `google.rpc.Status` with ErrorInfo, and BadRequest where fields are at fault."""
    status = status_pb2.Status(code=error.code, message=valid_text(error.message))
    metadata = {valid_text(key): valid_text(value) for key, value in error.metadata.items()}
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=metadata)
    status.details.add().Pack(info)
    if error.violations:
        bad = error_details_pb2.BadRequest()
        for field, description in error.violations:
            bad.field_violations.add(field=valid_text(field), description=valid_text(description))
        status.details.add().Pack(bad)
    return status


def valid_text(text: str) -> str:
    """Text without halves of surrogate pairs, which no message can hold; JSON and names of files may bring them."""
    return text.encode("utf-8", "replace").decode()


def from_status(status: status_pb2.Status) -> OmnialignError:
    """The error that a `google.rpc.Status` carries; the inverse of `to_status`."""
    info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    for detail in status.details:
        _ = detail.Unpack(info) or detail.Unpack(bad)
    cls = BY_CODE.get(status.code, OmnialignError)
    violations = [(v.field, v.description) for v in bad.field_violations]
    return cls(status.message, reason=info.reason, metadata=info.metadata, violations=violations)
