"""Checking that the media of records are there and can be decoded, each object once."""

import asyncio
from collections.abc import Callable, Iterable

from omnialign import media as codecs
from omnialign.client import AsyncClient
from omnialign.errors import DataLoss, InvalidArgument, NotFound
from omnialign.v1 import content_pb2

DECODERS: dict[int, Callable[[bytes], object]] = {
    content_pb2.MODALITY_IMAGE: codecs.read_image,
    content_pb2.MODALITY_AUDIO: codecs.read_audio,
    content_pb2.MODALITY_VIDEO: codecs.read_video,
}
MAX_HELD_BYTES = 64 * 1024 * 1024


class MediaCheck:
    """Fetches and decodes media, and remembers what it found; small objects stay in memory for those who ask again."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client
        self._problems: dict[str, str] = {}
        self._held: dict[str, bytes] = {}
        self._held_bytes = 0

    async def problem(self, media: Iterable[content_pb2.Media]) -> str:
        """The reason code of the first medium that cannot be used; empty when all can."""
        found = await asyncio.gather(*(self._problem(medium) for medium in media))
        return next(filter(None, found), "")

    async def fetch(self, medium: content_pb2.Media) -> bytes:
        """The bytes of a medium. Raises NotFound, or DataLoss when they are not what they were."""
        if medium.sha256 not in self._held:
            data = await self._client.get_media(medium.sha256)
            if self._held_bytes + len(data) > MAX_HELD_BYTES:
                return data
            self._held[medium.sha256] = data
            self._held_bytes += len(data)
        return self._held[medium.sha256]

    async def _problem(self, medium: content_pb2.Media) -> str:
        if medium.sha256 not in self._problems:
            self._problems[medium.sha256] = await self._look(medium)
        return self._problems[medium.sha256]

    async def _look(self, medium: content_pb2.Media) -> str:
        try:
            data = await self.fetch(medium)
            await asyncio.to_thread(DECODERS[medium.modality], data)
        except NotFound:
            return "MEDIA_NOT_FOUND"
        except (DataLoss, InvalidArgument) as error:
            return error.reason
        return ""
