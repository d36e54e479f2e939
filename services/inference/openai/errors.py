"""What the failures of an endpoint mean: a transient failure that may pass, or an error that will not.

Messages quote the beginning of what the endpoint said, and never a key.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

import httpx2
import openai

from omnialign.errors import (
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    OmnialignError,
    PermissionDenied,
    Unavailable,
)
from services.inference.model_uri import EndpointModel

QUOTE_CHARACTERS = 200
MAX_ANSWER_BYTES = 64 << 20
MAX_RETRY_AFTER_DIGITS = 10

# HTTP status codes
TRANSIENT = frozenset({408, 409, 425, 429})
NOT_OFFERED = frozenset({501, 505})
OVERLOADED = frozenset({429, 503, 504, 529})

OUT_OF_CREDIT = frozenset({"insufficient_quota", "billing_hard_limit_reached"})
_CONTEXT = re.compile(
    r"context[ _-]?(length|window|size)|max_model_len|maximum (input|prompt) length|too many tokens", re.I
)


class AnswerUnusable(openai.OpenAIError):
    """The body of an answer must not be read: it does not end, or is compressed, so that its size is unknown."""


@dataclass(frozen=True)
class TransientFailure:
    """Why an attempt failed that may succeed later. `kind` is a label of the metrics."""

    kind: str
    detail: str
    is_overload: bool = False
    retry_after: str | None = None
    """The header of that name."""


@dataclass(frozen=True)
class ErrorContext:
    """Whose words an error quotes, and the key that must not be among them."""

    model: EndpointModel
    key: str = ""

    def quote(self, text: str) -> str:
        """The beginning of a text in one line."""
        plain = text.replace(self.key, "***") if self.key else text
        return " ".join(plain[: 4 * QUOTE_CHARACTERS].split())[:QUOTE_CHARACTERS]

    def invalid(self, what: str, text: str = "") -> FailedPrecondition:
        """The error for an answer that no OpenAI-compatible endpoint gives."""
        begin = self.quote(text)
        ending = f" It begins: {begin}" if begin else ""
        return FailedPrecondition(
            f"The answer of {self.model.base_url} {what}; is it an OpenAI-compatible endpoint?{ending}",
            reason="ENDPOINT_INVALID",
            metadata={"endpoint": self.model.base_url, "model": self.model.name, "begins": begin},
        )


def classify_failure(error: Exception, context: ErrorContext) -> TransientFailure | OmnialignError:
    """What the failure of an attempt means: an error of `openai`, of `httpx2`, or a TimeoutError."""
    if isinstance(error, openai.APIStatusError):
        return _classify_status(error.response, context)
    causes = list(_causes(error))
    if any(isinstance(cause, TimeoutError) for cause in causes):
        return TransientFailure("timeout", "it did not answer in time", is_overload=True)
    if isinstance(error, openai.APIConnectionError | httpx2.HTTPError):
        last = causes[-1]
        detail = f"the connection failed ({type(last).__name__}: {context.quote(str(last))})"
        return TransientFailure("connection", detail)
    if isinstance(error, AnswerUnusable):
        return context.invalid(str(error))
    return context.invalid(f"cannot be used ({type(error).__name__})")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what caused it: the outer errors do not tell a timeout from a connection that broke."""
    while error is not None:
        yield error
        error = error.__cause__


def parse_answer(response: httpx2.Response, context: ErrorContext) -> dict[str, Any]:
    """The object in the body of an answer. Raises FailedPrecondition ENDPOINT_INVALID."""
    try:
        body = json.loads(response.content)
    except (ValueError, RecursionError) as error:
        raise context.invalid("is not JSON", response.text) from error
    if not isinstance(body, dict):
        raise context.invalid("is not a JSON object", response.text)
    return body


def parse_retry_after(value: str | None, *, date: float) -> float | None:
    """Seconds that a `Retry-After` header asks for, at `date` in seconds since 1970; None if there is no valid header.

    The header is a whole or decimal number of seconds, or an HTTP date. A date in the past means 0.
    """
    text = (value or "").strip()
    if not text:
        return None
    if text.isascii() and text.replace(".", "", 1).isdigit():
        return float(text) if len(text.partition(".")[0]) <= MAX_RETRY_AFTER_DIGITS else None
    try:
        return max(0.0, float(parsedate_to_datetime(text).timestamp()) - date)
    except (ValueError, TypeError, OverflowError, OSError, IndexError):
        return None


def unavailable(model: EndpointModel, failure: TransientFailure, *, retries: int) -> Unavailable:
    """The error for an endpoint that failed until the retries were used up."""
    return Unavailable(
        f"The endpoint {model.base_url} gave no answer, {retries} retries included; the last time {failure.detail}. "
        "Check that it runs, or allow more time with OMNIALIGN_ENGINE_OPENAI_RETRY_SECONDS.",
        reason="ENDPOINT_UNAVAILABLE",
        metadata={"endpoint": model.base_url, "last": failure.detail, "kind": failure.kind, "retries": str(retries)},
    )


def _classify_status(response: httpx2.Response, context: ErrorContext) -> TransientFailure | OmnialignError:
    status, body, model = response.status_code, _ErrorBody.of(response, context), context.model
    if status in (401, 403) or (status == 429 and body.code in OUT_OF_CREDIT):
        return _refused(model, status)
    if status in TRANSIENT or (status >= 500 and status not in NOT_OFFERED):
        kind = "rate_limit" if status == 429 else "overload" if status in OVERLOADED else "server"
        retry_after = response.headers.get("retry-after")
        return TransientFailure(kind, f"it answered {status}: {body.text}", status in OVERLOADED, retry_after)
    if status < 400 or not body.is_json:
        return context.invalid(f"has the status {status} and is not JSON", response.text)
    if status == 404:
        return _not_found(model, body.text)
    if body.code == "context_length_exceeded" or _CONTEXT.search(body.text):
        return InvalidArgument(
            f"The prompt and the answer are too long for {model.name}: {body.text}",
            reason="PROMPT_TOO_LONG",
            metadata={"endpoint": model.base_url, "model": model.name},
        )
    return InvalidArgument(
        f"The endpoint {model.base_url} rejected the request with {status}: {body.text}",
        reason="ENDPOINT_REJECTED",
        metadata={"endpoint": model.base_url, "model": model.name, "status": str(status)},
    )


def _refused(model: EndpointModel, status: int) -> PermissionDenied:
    return PermissionDenied(
        f"The endpoint {model.base_url} refused access with {status}; check its line in "
        "OMNIALIGN_ENGINE_OPENAI_KEYS_FILE and the account behind it.",
        reason="ENDPOINT_REFUSED",
        metadata={"endpoint": model.base_url, "status": str(status)},
    )


def _not_found(model: EndpointModel, detail: str) -> NotFound:
    return NotFound(
        f"The endpoint {model.base_url} has no model {model.name}: {detail}",
        reason="MODEL_NOT_FOUND",
        metadata={"endpoint": model.base_url, "model": model.name},
    )


@dataclass(frozen=True)
class _ErrorBody:
    """An error in the endpoint's words."""

    text: str
    code: str = ""
    is_json: bool = True

    @classmethod
    def of(cls, response: httpx2.Response, context: ErrorContext) -> "_ErrorBody":
        try:
            body = json.loads(response.content)
        except (ValueError, RecursionError):
            return cls(context.quote(response.text), is_json=False)
        error = body.get("error", body) if isinstance(body, Mapping) else body
        if not isinstance(error, Mapping):
            return cls(context.quote(str(error)))
        message = error.get("message") or error.get("detail") or error
        return cls(context.quote(str(message)), str(error.get("code") or ""))
