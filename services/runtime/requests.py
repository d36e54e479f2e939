"""What all requests have in common: rules on their shape, request ids, and pages.

Shape: every incoming message is checked against the protovalidate rules of the contract. Whether a resource exists, or
its state allows a call, is for the domain to decide.

Request ids (AIP-155): the same id with the same body is the same call; with another body it is an error. A store keeps
`body_digest(request)` beside the resource it created, written in the same transaction, and passes it to
`check_same_body` when the id comes again.

Pages (AIP-158): a page token is opaque and holds the key of the last row. It belongs to one query: it carries a digest
of the filter it was made with and is refused with any other. It is neither secret nor signed, because its values only
choose where a query that the caller may run anyway continues.
"""

import base64
import binascii
import functools
import hashlib
import json
from collections.abc import Sequence
from typing import Any

import protovalidate
from google.protobuf.message import Message

from omnialign.errors import InvalidArgument

IN_WORDS = {
    "^[a-z][a-z0-9-]{0,61}[a-z0-9]$": (
        "must have 2 to 63 small letters, digits and hyphens, begin with a letter and not end with a hyphen"
    )
}
"""What patterns of the contract ask for, where a caller may not read them: those of ids."""


@functools.cache
def _rules() -> protovalidate.Validator:
    """The rules of all types, each compiled on first sight, once for all servers of a process."""
    return protovalidate.Validator()


class Validator:
    """Checks messages against the rules in their descriptors."""

    def check(self, message: Message) -> None:
        """Raises InvalidArgument (`REQUEST_INVALID`) with one violation per field at fault."""
        found = _rules().collect_violations(message)
        if found:
            violations = [_describe(violation.proto) for violation in found]
            raise InvalidArgument(
                "; ".join(f"{field}: {problem}" for field, problem in violations),
                reason="REQUEST_INVALID",
                violations=violations,
            )


def _describe(violation: Any) -> tuple[str, str]:
    """(path such as `items[2].prompt.parts[0]`, what is wrong with it)."""
    path = "".join(map(_step, violation.field.elements if violation.field else ())).removeprefix(".")
    pattern = violation.message.partition("`")[2].rpartition("`")[0]
    return path, IN_WORDS.get(pattern) or violation.message or violation.rule_id


def _step(element: Any) -> str:
    subscript = element.subscript
    if subscript is None:
        return f".{element.field_name}"
    key = f'"{subscript.value}"' if subscript.field == "string_key" else str(subscript.value).lower()
    return f".{element.field_name}[{key}]"


def body_digest(message: Message) -> str:
    """SHA-256 (hexadecimal) of a request without its `request_id`; equal for equal requests, in any process."""
    body = type(message)()
    body.CopyFrom(message)
    if "request_id" in body.DESCRIPTOR.fields_by_name:
        body.ClearField("request_id")
    digest = hashlib.sha256(body.DESCRIPTOR.full_name.encode())
    digest.update(b"\0" + body.SerializeToString(deterministic=True))
    return digest.hexdigest()


def check_same_body(stored_digest: str, message: Message, *, request_id: str) -> None:
    """Raises InvalidArgument (`REQUEST_ID_REUSED`) unless `message` is the request that `stored_digest` is of."""
    if stored_digest != body_digest(message):
        raise InvalidArgument(
            f"request_id '{request_id}' was used before with another body; use a new one",
            reason="REQUEST_ID_REUSED",
            metadata={"request_id": request_id},
            violations=[("request_id", "was used before with another body")],
        )


DEFAULT_PAGE_SIZE = 50
MAX_PAGE_SIZE = 1000
MAX_NUMBER = 2**63 - 1

Kind = type[int] | type[str] | type[bytes]


def page_size(requested: int) -> int:
    """Rows per page: 50 for 0, at most 1000. Raises InvalidArgument (`PAGE_SIZE_INVALID`) for a negative number."""
    if requested < 0:
        raise InvalidArgument(
            f"page_size must be 0 or more, not {requested}",
            reason="PAGE_SIZE_INVALID",
            metadata={"page_size": str(requested)},
            violations=[("page_size", "must be 0 or more")],
        )
    return min(requested or DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)


def encode_token(values: Sequence[str], *, filter: str) -> str:  # noqa: A002  the API's own word
    """A page token for the row whose key is `values`, in the list selected by `filter` (parent included)."""
    body = json.dumps([_digest(filter), *values], separators=(",", ":"), ensure_ascii=False)
    return base64.urlsafe_b64encode(body.encode("utf-8", "surrogatepass")).decode("ascii")


def decode_token(token: str, *, filter: str, kinds: Sequence[Kind]) -> list[str]:  # noqa: A002
    """The key that `encode_token` was given; empty for an empty token, which means the first page.

    `kinds` are what its values stand for: a number, a text that can be printed, or bytes of UTF-8 as hexadecimal.
    Raises InvalidArgument (`PAGE_TOKEN_INVALID`) for a token that is not ours or belongs to another query.
    """
    if not token:
        return []
    try:
        body = json.loads(base64.b64decode(token, altchars=b"-_", validate=True).decode("utf-8", "surrogatepass"))
    except (binascii.Error, ValueError, RecursionError):
        raise _invalid("is not a token from an earlier answer") from None
    if not isinstance(body, list) or not body or not all(isinstance(value, str) for value in body):
        raise _invalid("is not a token from an earlier answer")
    digest, *key = body
    if digest != _digest(filter):
        raise _invalid("belongs to a list with another parent or filter")
    if len(key) != len(kinds) or not all(_is_kind(value, kind) for value, kind in zip(key, kinds, strict=True)):
        raise _invalid("is not a token from an earlier answer")
    return key


def _is_kind(value: str, kind: Kind) -> bool:
    """Whether a database takes a value of a token: a number of 64 bits, or text."""
    if kind is int:
        return value.isascii() and value.isdecimal() and len(value) < 20 and int(value) <= MAX_NUMBER
    if kind is bytes:
        try:
            return bool(bytes.fromhex(value).decode())
        except ValueError:
            return False
    return value.isprintable()


def _digest(filter_text: str) -> str:
    return hashlib.sha256(filter_text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _invalid(problem: str) -> InvalidArgument:
    return InvalidArgument(f"page_token {problem}", reason="PAGE_TOKEN_INVALID", violations=[("page_token", problem)])
