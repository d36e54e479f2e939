"""Media for players, straight from the data service: parts of them, as types that we decided, and without any rights.

A stored medium is what the data service found by decoding it, and only types on a list of ours are shown by a browser;
all others are offered as files. Every medium has a preview that all browsers play. Whatever the bytes are, the sandbox
in the answer's policy lets nothing in them run.
"""

from collections.abc import AsyncIterator, Callable

import numpy as np
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from omnialign.client import AsyncClient
from omnialign.errors import InvalidArgument, NotFound
from omnialign.v1 import content_pb2
from services.console.context import Context
from services.console.previews import SHOWN, TYPES
from services.console.ranges import ByteRange, Unsatisfiable, wanted_range
from services.console.security import UNTRUSTED_POLICY

FILE = "application/octet-stream"
NOWHERE = 1 << 62
"""Behind the end of everything: there is nothing to read, and the answer says what the object is."""
NOTHING = np.zeros((0, 2), np.float32)
_DIGITS = frozenset("0123456789abcdef")


def media_routes(context: Context) -> list[Route]:
    """Media by their digest."""

    async def show(request: Request) -> Response:
        client, sha256 = context.client(request), _digest(request)
        medium = await described(client, sha256)
        headers = headers_of(medium, is_file="download" in request.query_params)
        if request.headers.get("if-none-match") == headers["etag"]:
            return Response(status_code=304, headers=headers)
        return _ranged(request, headers, medium.size_bytes, lambda part: _bytes(client, sha256, part))

    async def preview(request: Request) -> Response:
        client, sha256 = context.client(request), _digest(request)
        medium = await described(client, sha256)
        headers = preview_headers(medium)
        if request.headers.get("if-none-match") == headers["etag"]:
            return Response(status_code=304, headers=headers)
        data = await context.previews.preview(client, medium)
        return _ranged(request, headers, len(data), lambda part: _piece(data, part))

    async def drawn(request: Request) -> Response:
        client, sha256 = context.client(request), _digest(request)
        medium = await described(client, sha256)
        if medium.modality != content_pb2.MODALITY_AUDIO:
            raise InvalidArgument("Only sounds have a waveform.", reason="NOT_A_SOUND")
        try:
            peaks = await context.previews.peaks(client, medium)
        except InvalidArgument:  # the player stands without a drawing
            peaks = NOTHING
        # At least a hair apart, so that silence is a line.
        columns = [(round(float(low) - 0.01, 3), round(float(high) + 0.01, 3)) for low, high in peaks]
        answer = context.pages.page(request, "waveform.html.j2", columns=columns)
        answer.headers["cache-control"] = headers_of(medium, is_file=False)["cache-control"]
        return answer

    path = "/projects/{project}/media/{sha256}"
    return [Route(path, show), Route(f"{path}/preview", preview), Route(f"{path}/waveform", drawn)]


async def described(client: AsyncClient, sha256: str) -> content_pb2.Media:
    """What a stored medium is. Raises NotFound."""
    async for message in client.stream_media(sha256, offset=NOWHERE, limit=1):
        return message.media
    raise NotFound("There is no such medium.", reason="MEDIA_NOT_FOUND")


def headers_of(medium: content_pb2.Media, *, is_file: bool) -> dict[str, str]:
    """The headers of an answer with a medium or a part of it."""
    suffix = SHOWN.get(medium.mime_type)
    place = "attachment" if is_file or suffix is None else "inline"
    return {
        "content-type": medium.mime_type if suffix else FILE,
        "content-disposition": f'{place}; filename="{medium.sha256[:16]}.{suffix or "bin"}"',
        "content-security-policy": UNTRUSTED_POLICY,
        "accept-ranges": "bytes",
        "etag": f'"{medium.sha256}"',
        # The bytes of a digest never change, but who may see them does: browsers ask each time.
        "cache-control": "private, no-cache",
    }


def preview_headers(medium: content_pb2.Media) -> dict[str, str]:
    """The headers of an answer with the preview of a medium, or a part of it."""
    kind, suffix = TYPES[medium.modality]
    own = {
        "content-type": kind,
        "content-disposition": f'inline; filename="{medium.sha256[:16]}-preview.{suffix}"',
        "etag": f'"{medium.sha256}-preview"',
    }
    return headers_of(medium, is_file=False) | own


def _ranged(
    request: Request, headers: dict[str, str], size_bytes: int, read: Callable[[ByteRange], AsyncIterator[bytes]]
) -> Response:
    """The part of an object that is asked for, or all of it."""
    try:
        part = _part(request, size_bytes, headers["etag"])
    except Unsatisfiable:
        return Response(status_code=416, headers=headers | {"content-range": f"bytes */{size_bytes}"})
    found = part or ByteRange(0, size_bytes)
    headers["content-length"] = str(found.length)
    if part is not None:
        headers["content-range"] = f"bytes {part.start}-{part.end - 1}/{size_bytes}"
    status = 200 if part is None else 206
    if request.method == "HEAD" or not found.length:
        return Response(status_code=status, headers=headers)
    return StreamingResponse(read(found), status, headers=headers)


def _part(request: Request, size_bytes: int, etag: str) -> ByteRange | None:
    if_range = request.headers.get("if-range")
    if "range" not in request.headers or (if_range is not None and if_range != etag):
        return None
    return wanted_range(request.headers["range"], size=size_bytes)


async def _bytes(client: AsyncClient, sha256: str, part: ByteRange) -> AsyncIterator[bytes]:
    async for message in client.stream_media(sha256, offset=part.start, limit=part.length):
        if message.chunk:
            yield message.chunk


async def _piece(data: bytes, part: ByteRange) -> AsyncIterator[bytes]:
    yield data[part.start : part.end]


def _digest(request: Request) -> str:
    sha256: str = request.path_params["sha256"]
    if len(sha256) != 64 or not _DIGITS.issuperset(sha256):
        raise NotFound("There is no such medium.", reason="MEDIA_NOT_FOUND")
    return sha256
