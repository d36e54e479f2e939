"""Media between the data service and the models: bytes in by digest, bytes out as stored objects.

Bytes that were just read or written are likely to be needed again (a response is criticised, refined and compared), so
they stay in memory up to a bound. Callers that need the same object at the same time share one download, and what is
wanted at the same time is read in one stream.
"""

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from omnialign.content import media_of
from omnialign.modeling.inputs import MediaBytes, Pieces
from omnialign.v1 import content_pb2

MIB = 1 << 20
PARALLEL_CALLS = 16
STREAM_MEDIA = 64
MIME_TYPES: dict[int, str] = {
    content_pb2.MODALITY_IMAGE: "image/png",
    content_pb2.MODALITY_AUDIO: "audio/wav",
    content_pb2.MODALITY_VIDEO: "video/mp4",
}


class MediaSource(Protocol):
    """The part of the SDK that reads and writes media."""

    async def fetch_media(self, digests: Iterable[str]) -> Mapping[str, bytes]:
        """The bytes of objects. Asking the answer for one that cannot be read raises why."""
        ...

    async def upload_media(self, data: bytes, *, modality: int, mime_type: str = "") -> content_pb2.Media:
        """Stores an object."""
        ...


class MediaClient:
    """Reads and writes media objects, and keeps up to `capacity_bytes` of them in memory. For use on one event loop."""

    def __init__(self, source: MediaSource, *, capacity_bytes: int = 64 * MIB) -> None:
        self._source, self._capacity_bytes = source, capacity_bytes
        self._kept: OrderedDict[str, bytes] = OrderedDict()
        self._kept_bytes = 0
        self._stored: OrderedDict[str, content_pb2.Media] = OrderedDict()
        self._downloads: dict[str, asyncio.Task[bytes]] = {}
        self._wanted: list[str] = []
        """Objects of the next stream, which begins as soon as everybody who is ready now has said what they want."""
        self._stream: asyncio.Task[Mapping[str, bytes]] | None = None
        self._calls = asyncio.Semaphore(PARALLEL_CALLS)

    async def fetch(self, contents: Iterable[content_pb2.Content]) -> dict[str, bytes]:
        """The bytes of all media in `contents`, by sha256. Raises the NotFound or DataLoss of the first that fails."""
        digests = list(dict.fromkeys(media.sha256 for media in media_of(contents)))
        return dict(zip(digests, await asyncio.gather(*map(self.get, digests)), strict=True))

    async def get(self, sha256: str) -> bytes:
        """The bytes of one object."""
        if sha256 in self._kept:
            self._kept.move_to_end(sha256)
            return self._kept[sha256]
        if sha256 not in self._downloads:
            self._downloads[sha256] = asyncio.create_task(self._download(sha256))
            self._downloads[sha256].add_done_callback(lambda task: self._end_download(sha256, task))
        return await asyncio.shield(
            self._downloads[sha256]
        )  # the download continues for other callers if this one is cancelled

    async def store(self, pieces: Pieces) -> content_pb2.Content:
        """A message of these pieces, with its media stored."""
        parts = await asyncio.gather(*(self._part(piece) for piece in pieces))
        return content_pb2.Content(parts=parts)

    async def _part(self, piece: str | MediaBytes) -> content_pb2.Part:
        if isinstance(piece, str):
            return content_pb2.Part(text=piece)
        return content_pb2.Part(media=await self._upload(piece))

    async def _upload(self, medium: MediaBytes) -> content_pb2.Media:
        sha256 = hashlib.sha256(medium.data).hexdigest()
        if sha256 not in self._stored or sha256 not in self._kept:
            async with self._calls:
                self._stored[sha256] = await self._source.upload_media(
                    medium.data, modality=medium.modality, mime_type=MIME_TYPES.get(medium.modality, "")
                )
            self._keep(sha256, medium.data)
        return self._stored[sha256]

    async def _download(self, sha256: str) -> bytes:
        if self._stream is None or len(self._wanted) == STREAM_MEDIA:
            self._wanted = []
            self._stream = asyncio.create_task(self._read(self._wanted))
        self._wanted.append(sha256)
        data = (await asyncio.shield(self._stream))[sha256]
        self._keep(sha256, data)
        return data

    async def _read(self, wanted: list[str]) -> Mapping[str, bytes]:
        async with self._calls:
            if self._wanted is wanted:  # who comes later begins another stream
                self._stream = None
            return await self._source.fetch_media(wanted)

    def _end_download(self, sha256: str, task: asyncio.Task[bytes]) -> None:
        del self._downloads[sha256]
        if not task.cancelled():
            task.exception()  # retrieved, even if every caller was cancelled

    def _keep(self, sha256: str, data: bytes) -> None:
        """Keeps an object, and drops the least recently used ones. An object above the whole bound is not kept."""
        if len(data) > self._capacity_bytes or sha256 in self._kept:
            return
        self._kept[sha256] = data
        self._kept_bytes += len(data)
        while self._kept_bytes > self._capacity_bytes:
            oldest, dropped = self._kept.popitem(last=False)
            self._kept_bytes -= len(dropped)
            self._stored.pop(oldest, None)


def text_of(pieces: Sequence[str | MediaBytes]) -> str:
    """The text of an answer, without its media."""
    return " ".join(piece for piece in pieces if isinstance(piece, str))
