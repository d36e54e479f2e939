"""A check of media before a job starts: are they there, and can they be decoded?

Each medium is fetched and decoded once, under the job's media policy.
"""

import asyncio
from collections import Counter
from collections.abc import Iterable

from omnialign.client import AsyncClient
from omnialign.errors import DataLoss, InvalidArgument, NotFound
from omnialign.modeling.decoding import decode
from omnialign.modeling.inputs import MediaBytes, MediaLoss, MediaPolicy
from omnialign.v1 import content_pb2

MAX_CACHED_BYTES = 64 * 1024 * 1024
CONCURRENT_DECODES = 2
"""Number of media decoded at the same time, which bounds the memory that they take."""


class MediaCheck:
    """Fetches and decodes media, and remembers what it found. Small ones stay in memory, for they are needed twice."""

    def __init__(self, client: AsyncClient, policy: MediaPolicy) -> None:
        self._client, self.policy = client, policy
        self.losses: list[MediaLoss] = []
        self._decoding = asyncio.Semaphore(CONCURRENT_DECODES)
        self._problems: dict[tuple[str, int], str] = {}
        self._cached: dict[str, bytes] = {}
        self._cached_bytes = 0

    async def problem(self, media: Iterable[content_pb2.Media]) -> str:
        """The reason code of the first medium that cannot be used; empty when all can."""
        found = await asyncio.gather(*(self._problem(medium) for medium in media))
        return next(filter(None, found), "")

    async def fetch(self, medium: content_pb2.Media) -> bytes:
        """The bytes of a medium. Raises NotFound, or DataLoss if they changed in storage."""
        if medium.sha256 not in self._cached:
            data = await self._client.get_media(medium.sha256)
            if self._cached_bytes + len(data) > MAX_CACHED_BYTES:
                return data
            self._cached[medium.sha256] = data
            self._cached_bytes += len(data)
        return self._cached[medium.sha256]

    def in_part(self) -> list[str]:
        """A sentence on the media that the policy shortens or shrinks."""
        if not self.losses:
            return []
        reasons = ", ".join(
            f"{reason} {n}" for reason, n in sorted(Counter(loss.reason for loss in self.losses).items())
        )
        return [f"{len(self.losses)} media objects are used in part: {reasons} (such as {self.losses[0].detail})."]

    async def _problem(self, medium: content_pb2.Media) -> str:
        key = (medium.sha256, medium.modality)  # a record may call the same bytes a picture, or a sound
        if key not in self._problems:
            self._problems[key] = await self._look(medium)
        return self._problems[key]

    async def _look(self, medium: content_pb2.Media) -> str:
        try:
            found = MediaBytes(medium.modality, await self.fetch(medium))
            async with self._decoding:  # a decoded video takes a hundred times its bytes
                loss = await asyncio.to_thread(_loss, found, self.policy)
            self.losses += [loss] if loss else []
        except NotFound:
            return "MEDIA_NOT_FOUND"
        except (DataLoss, InvalidArgument) as error:
            return error.reason
        return ""


def _loss(medium: MediaBytes, policy: MediaPolicy) -> MediaLoss | None:
    """What a medium loses under a policy. The decoded arrays, which are large, are dropped here."""
    return decode(medium, policy).loss
