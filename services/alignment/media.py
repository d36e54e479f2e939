"""Checking that the media of records are there and can be decoded under the job's policy, each object once."""

import asyncio
from collections.abc import Iterable

from omnialign.client import AsyncClient
from omnialign.errors import DataLoss, InvalidArgument, NotFound
from omnialign.modeling.decoded import decode
from omnialign.modeling.inputs import MediaLoss
from omnialign.modeling.messages import MediaBytes
from omnialign.modeling.policy import MediaPolicy
from omnialign.v1 import content_pb2

MAX_HELD_BYTES = 64 * 1024 * 1024
PARALLEL_DECODES = 2
"""Media that are decoded at the same time: it bounds the memory that they take."""


class MediaCheck:
    """Fetches and decodes media, and remembers what it found; small objects stay in memory for those who ask again."""

    def __init__(self, client: AsyncClient, policy: MediaPolicy) -> None:
        self._client, self.policy = client, policy
        self.losses: list[MediaLoss] = []
        self._decoding = asyncio.Semaphore(PARALLEL_DECODES)
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
            found = MediaBytes(medium.modality, await self.fetch(medium))
            async with self._decoding:
                loss = await asyncio.to_thread(_loss, found, self.policy)
            self.losses += [loss] if loss else []
        except NotFound:
            return "MEDIA_NOT_FOUND"
        except (DataLoss, InvalidArgument) as error:
            return error.reason
        return ""


def _loss(medium: MediaBytes, policy: MediaPolicy) -> MediaLoss | None:
    """What a medium loses under a policy; the arrays are gone at once."""
    return decode(medium, policy).loss
