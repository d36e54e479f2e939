"""The body of a request: one JSON object of bounded size."""

import asyncio
import json
from collections.abc import Callable
from typing import Any, TypeVar

from starlette.requests import Request

from omnialign.errors import InvalidArgument
from services.console.door.errors import invalid

T = TypeVar("T")
LARGE_BYTES = 1 << 18
"""Bodies above this size, which hold media, are parsed off the event loop."""


async def read_body(request: Request, *, max_bytes: int) -> bytes:
    """The bytes of the body. Raises InvalidArgument CONTENT_TYPE_INVALID, BODY_TOO_LARGE."""
    # Browsers send a foreign page's request of any other type without asking first.
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        message = "The body must be JSON; send it with `Content-Type: application/json`."
        raise InvalidArgument(message, reason="CONTENT_TYPE_INVALID")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise InvalidArgument("The body must not be compressed; send it as it is.", reason="CONTENT_TYPE_INVALID")
    announced = request.headers.get("content-length", "0")
    if announced.isascii() and announced.isdigit() and int(announced) > max_bytes:
        raise _too_large(max_bytes)
    chunks, size = list[bytes](), 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > max_bytes:
            raise _too_large(max_bytes)
        chunks.append(chunk)
    return b"".join(chunks)


async def parse_body(data: bytes, read: Callable[[dict[str, Any]], T]) -> T:
    """What `read` makes of the object in a body. Raises InvalidArgument JSON_INVALID, and what `read` raises."""
    if len(data) > LARGE_BYTES:
        return await asyncio.to_thread(lambda: read(_object(data)))
    return read(_object(data))


def text_at(value: Any, param: str) -> str:
    """A text that a message can hold. Raises InvalidArgument PARAMETER_INVALID."""
    if not isinstance(value, str):
        raise invalid(param, "must be a string")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise invalid(param, "has half of a surrogate pair; send valid Unicode") from None
    return value


def _object(data: bytes) -> dict[str, Any]:
    try:
        found = json.loads(data, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        message = f"The body is not valid JSON ({str(error)[:200]}); send one JSON object."
        raise InvalidArgument(message, reason="JSON_INVALID") from None
    if not isinstance(found, dict):
        raise InvalidArgument("The body is not a JSON object; send one.", reason="JSON_INVALID")
    return found


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def _too_large(max_bytes: int) -> InvalidArgument:
    return InvalidArgument(
        f"The body has more than {max_bytes} bytes; upload large media first and name them by their reference.",
        reason="BODY_TOO_LARGE",
        metadata={"max_bytes": str(max_bytes)},
    )
