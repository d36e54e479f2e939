"""What the failures of an endpoint mean: a trouble that may pass, or an error that will not.

Messages quote the beginning of what the endpoint said, never a key.


When a request is tried again: the endpoint's own wish (`Retry-After`), growing pauses, and a budget per request."""

import json
import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
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
PASSING = frozenset({408, 409, 425, 429})
NOT_OFFERED = frozenset({501, 505})
OVERLOADED = frozenset({429, 503, 504, 529})
OUT_OF_CREDIT = frozenset({"insufficient_quota", "billing_hard_limit_reached"})
_CONTEXT = re.compile(
    r"context[ _-]?(length|window|size)|max_model_len|maximum (input|prompt) length|too many tokens", re.I
)


class AnswerUnusable(openai.OpenAIError):
    """The body of an answer is not to be read: it goes on for ever, or is packed, so that its size is unknown."""


@dataclass(frozen=True)
class Trouble:
    """Why a try failed that may succeed later. `kind` is a label of the metrics."""

    kind: str
    detail: str
    is_overload: bool = False
    retry_after: str | None = None


@dataclass(frozen=True)
class Source:
    """Whose words are quoted, and the key that must not be among them."""

    model: EndpointModel
    key: str = ""

    def quote(self, text: str) -> str:
        """The beginning of a text in one line."""
        plain = text.replace(self.key, "***") if self.key else text
        return " ".join(plain[: 4 * QUOTE_CHARACTERS].split())[:QUOTE_CHARACTERS]

    def invalid(self, what: str, text: str = "") -> FailedPrecondition:
        """The error for an endpoint that says what no endpoint of this kind says."""
        begin = self.quote(text)
        ending = f" It begins: {begin}" if begin else ""
        return FailedPrecondition(
            f"The answer of {self.model.base_url} {what}; is it an OpenAI-compatible endpoint?{ending}",
            reason="ENDPOINT_INVALID",
            metadata={"endpoint": self.model.base_url, "model": self.model.name, "begins": begin},
        )


def understand(error: Exception, source: Source) -> Trouble | OmnialignError:
    """What the failure of a try means: an error of `openai`, of `httpx2`, or a TimeoutError."""
    if isinstance(error, openai.APIStatusError):
        return _status(error.response, source)
    causes = list(_causes(error))
    if any(isinstance(cause, TimeoutError) for cause in causes):
        return Trouble("timeout", "it did not answer in time", is_overload=True)
    if isinstance(error, openai.APIConnectionError | httpx2.HTTPError):
        last = causes[-1]
        return Trouble("connection", f"the connection failed ({type(last).__name__}: {source.quote(str(last))})")
    if isinstance(error, AnswerUnusable):
        return source.invalid(str(error))
    return source.invalid(f"cannot be used ({type(error).__name__})")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what it came from. The outer ones do not tell a time-out from a connection that broke."""
    while error is not None:
        yield error
        error = error.__cause__


def parse_answer(response: httpx2.Response, source: Source) -> dict[str, Any]:
    """The object in the body of an answer. Raises FailedPrecondition ENDPOINT_INVALID."""
    try:
        body = json.loads(response.content)
    except (ValueError, RecursionError) as error:
        raise source.invalid("is not JSON", response.text) from error
    if not isinstance(body, dict):
        raise source.invalid("is not a JSON object", response.text)
    return body


def unavailable(model: EndpointModel, trouble: Trouble, *, retries: int) -> Unavailable:
    """The error for an endpoint whose retries are used up."""
    return Unavailable(
        f"The endpoint {model.base_url} gave no answer, {retries} retries included; the last time {trouble.detail}. "
        "See that it runs, or give it more time by OMNIALIGN_ENGINE_OPENAI_RETRY_SECONDS.",
        reason="ENDPOINT_UNAVAILABLE",
        metadata={"endpoint": model.base_url, "last": trouble.detail, "kind": trouble.kind, "retries": str(retries)},
    )


def _status(response: httpx2.Response, source: Source) -> Trouble | OmnialignError:
    status, said, model = response.status_code, _Said.of(response, source), source.model
    if status in (401, 403) or (status == 429 and said.code in OUT_OF_CREDIT):
        return _refused(model, status)
    if status in PASSING or (status >= 500 and status not in NOT_OFFERED):
        kind = "rate_limit" if status == 429 else "overload" if status in OVERLOADED else "server"
        return Trouble(
            kind, f"it answered {status}: {said.text}", status in OVERLOADED, response.headers.get("retry-after")
        )
    if status < 400 or not said.is_json:
        return source.invalid(f"has the status {status} and is not JSON", response.text)
    if status == 404:
        return _not_found(model, said.text)
    if said.code == "context_length_exceeded" or _CONTEXT.search(said.text):
        return InvalidArgument(
            f"The prompt and the answer are too long for {model.name}: {said.text}",
            reason="PROMPT_TOO_LONG",
            metadata={"endpoint": model.base_url, "model": model.name},
        )
    return InvalidArgument(
        f"The endpoint {model.base_url} rejected the request with {status}: {said.text}",
        reason="ENDPOINT_REJECTED",
        metadata={"endpoint": model.base_url, "model": model.name, "status": str(status)},
    )


def _refused(model: EndpointModel, status: int) -> PermissionDenied:
    return PermissionDenied(
        f"The endpoint {model.base_url} refused us with {status}; see to its line in OMNIALIGN_ENGINE_OPENAI_KEYS_FILE "
        "and to the account behind it.",
        reason="ENDPOINT_REFUSED",
        metadata={"endpoint": model.base_url, "status": str(status)},
    )


def _not_found(model: EndpointModel, said: str) -> NotFound:
    return NotFound(
        f"The endpoint {model.base_url} has no model {model.name}: {said}",
        reason="MODEL_NOT_FOUND",
        metadata={"endpoint": model.base_url, "model": model.name},
    )


@dataclass(frozen=True)
class _Said:
    """An error in the endpoint's words."""

    text: str
    code: str = ""
    is_json: bool = True

    @classmethod
    def of(cls, response: httpx2.Response, source: Source) -> "_Said":
        try:
            body = json.loads(response.content)
        except (ValueError, RecursionError):
            return cls(source.quote(response.text), is_json=False)
        error = body.get("error", body) if isinstance(body, Mapping) else body
        if not isinstance(error, Mapping):
            return cls(source.quote(str(error)))
        message = error.get("message") or error.get("detail") or error
        return cls(source.quote(str(message)), str(error.get("code") or ""))


FIRST_PAUSE_SECONDS = 0.5
MAX_PAUSE_SECONDS = 30.0
MAX_DIGITS = 10


def parse_retry_after(value: str | None, *, date: float) -> float | None:
    """Seconds that a `Retry-After` header asks to wait, given the seconds since 1970; None for no header or no sense.

    The header is a whole or decimal number of seconds, or an HTTP date. A date that has passed means 0.
    """
    text = (value or "").strip()
    if not text:
        return None
    if text.isascii() and text.replace(".", "", 1).isdigit():
        return float(text) if len(text.partition(".")[0]) <= MAX_DIGITS else None
    try:
        return max(0.0, float(parsedate_to_datetime(text).timestamp()) - date)
    except (ValueError, TypeError, OverflowError, OSError, IndexError):
        return None


@dataclass
class RetryBudget:
    """The retries of one request: at most so many, and none later than so many seconds after its first failure."""

    max_retries: int
    seconds: float
    draw: random.Random = field(default_factory=random.Random)
    retries: int = 0
    tried_at: float = float("-inf")
    """When the newest try began."""
    failed_at: float | None = None
    """When the first try failed for a reason that may pass."""

    @property
    def troubled_since(self) -> float:
        """When the trouble of a request that failed began, as far as it knows."""
        return self.tried_at if self.failed_at is None else self.failed_at

    def pause(self, *, now: float, retry_after: float | None) -> float | None:
        """Seconds to wait before the next try, counting it; None when there should be none."""
        if self.failed_at is None:
            self.failed_at = now
        grown = min(MAX_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2.0 ** min(self.retries, 30))
        pause = max(grown * self.draw.uniform(0.5, 1.0), retry_after or 0.0)
        if self.retries >= self.max_retries or now + pause - self.failed_at > self.seconds:
            return None
        self.retries += 1
        return pause
