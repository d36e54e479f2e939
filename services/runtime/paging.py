"""Pages of lists (AIP-158): the size asked for, and opaque tokens that hold the key of the last row.

A token belongs to one query: it carries a digest of the filter it was made with and is refused with any other. It is
not a secret and not signed; its values only choose where a query that the caller may run anyway goes on.
"""

import base64
import binascii
import hashlib
import json
from collections.abc import Sequence

from omnialign.errors import InvalidArgument

DEFAULT_PAGE_SIZE = 50
MAX_PAGE_SIZE = 1000


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


def decode_token(token: str, *, filter: str) -> list[str]:  # noqa: A002  the API's own word
    """The key that `encode_token` was given; empty for an empty token, which means the first page.

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
    if body[0] != _digest(filter):
        raise _invalid("belongs to a list with another parent or filter")
    return body[1:]


def _digest(filter_text: str) -> str:
    return hashlib.sha256(filter_text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _invalid(problem: str) -> InvalidArgument:
    return InvalidArgument(f"page_token {problem}", reason="PAGE_TOKEN_INVALID", violations=[("page_token", problem)])
