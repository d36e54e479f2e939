"""Errors in OpenAI's form: `{"error": {"message", "type", "param", "code"}}`, where `code` is the reason of ours."""

import math
from typing import Any

from google.rpc import code_pb2
from starlette.responses import JSONResponse

from omnialign.errors import InvalidArgument, OmnialignError, valid_text
from services.runtime.errors import RETRY_AFTER

STATUS: dict[int, int] = {
    code_pb2.INVALID_ARGUMENT: 400,
    code_pb2.FAILED_PRECONDITION: 400,
    code_pb2.UNAUTHENTICATED: 401,
    code_pb2.PERMISSION_DENIED: 403,
    code_pb2.NOT_FOUND: 404,
    code_pb2.ALREADY_EXISTS: 409,
    code_pb2.ABORTED: 409,
    code_pb2.RESOURCE_EXHAUSTED: 429,
    code_pb2.CANCELLED: 499,
    code_pb2.UNAVAILABLE: 503,
    code_pb2.DEADLINE_EXCEEDED: 504,
}
STATUS_OF_REASON = {
    "BODY_TOO_LARGE": 413,
    "MEDIA_TOO_LARGE": 413,
    "CONTENT_TYPE_INVALID": 415,
    "ANSWER_MALFORMED": 500,  # the model's fault, not that of the request
}
TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
RETRIED = frozenset({429, 503})
RETRY_SECONDS = 1.0
"""What `Retry-After` says of an error that does not say itself when to try again."""


def status_of(error: OmnialignError) -> int:
    """The HTTP status of an error."""
    return STATUS_OF_REASON.get(error.reason) or STATUS.get(error.code, 500)


def error_body(error: OmnialignError) -> dict[str, Any]:
    """An error as OpenAI's clients read it; `param` is the field at fault, if there is one."""
    status = status_of(error)
    kind = TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    if error.reason == "QUOTA_EXCEEDED":
        kind = "insufficient_quota"
    param = error.violations[0][0] if error.violations else None
    return {"error": {"message": valid_text(error.message), "type": kind, "param": param, "code": error.reason}}


def error_response(error: OmnialignError) -> JSONResponse:
    """An error as an answer, with the headers that belong to its status."""
    status, headers = status_of(error), dict[str, str]()
    if status in RETRIED:
        headers["Retry-After"] = str(max(1, math.ceil(float(error.metadata.get(RETRY_AFTER, RETRY_SECONDS)))))
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(error_body(error), status, headers)


def invalid(param: str, problem: str, *, reason: str = "PARAMETER_INVALID") -> InvalidArgument:
    """The error for a parameter whose value cannot be used. `problem` goes on from the parameter's name."""
    return InvalidArgument(f"The parameter {param} {problem}.", reason=reason, violations=[(param, problem)])


def unsupported(param: str, mend: str) -> InvalidArgument:
    """The error for a parameter that would change the answer and is not carried out."""
    return invalid(param, f"is not supported; {mend}", reason="PARAMETER_UNSUPPORTED")
