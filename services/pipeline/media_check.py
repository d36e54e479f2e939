"""A check of media before a job starts: are they there, and can they be decoded?

Each medium is fetched and decoded once, under the job's media policy. A process remembers those that can be used, so
that the next evaluation on the same benchmark need not decode them again: stored bytes never change.
"""

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from weakref import WeakKeyDictionary

from omnialign.client import AsyncClient
from omnialign.client.bulk_media import MediaByDigest
from omnialign.errors import DataLoss, InvalidArgument, NotFound
from omnialign.modeling.decoding import decode
from omnialign.modeling.inputs import MediaBytes, MediaLoss, MediaPolicy
from omnialign.v1 import content_pb2
from services.runtime.recent import RecentValues

MAX_CACHED_BYTES = 64 * 1024 * 1024
BATCH_MEDIA, BATCH_BYTES = 32, 16 * 1024 * 1024
"""Media that are fetched at once, and decoded in one visit to a thread: it costs more than a small picture does."""
CONCURRENT_LOOKS = 2
"""Batches under way at once: one is fetched while another is decoded."""
MAX_REMEMBERED = 100_000
"""Media that a process remembers of a project; those that were looked for longest ago are forgotten first."""

Media = content_pb2.Media
Found = OrderedDict[tuple[str, int, MediaPolicy], MediaLoss | None]
"""What media lose, by digest, modality and policy. Only those that can be used are remembered."""

_found: WeakKeyDictionary[AsyncClient, Found] = WeakKeyDictionary()


class MediaCheck:
    """Fetches and decodes media, and remembers what it found. The last ones stay in memory: they are needed twice."""

    def __init__(self, client: AsyncClient, policy: MediaPolicy) -> None:
        self._client, self.policy = client, policy
        self._losses: Counter[str] = Counter()
        self._first_loss = ""
        self._looks = asyncio.Semaphore(CONCURRENT_LOOKS)
        self._problems: OrderedDict[tuple[str, int], str] = OrderedDict()  # of the media that were looked at last
        self._found = _found.setdefault(client, OrderedDict())
        self._cached = RecentValues[str, bytes](MAX_CACHED_BYTES, size=len)

    async def problem(self, media: Iterable[Media]) -> str:
        """The reason code of the first medium that cannot be used; empty when all can."""
        return (await self.problems([media]))[0]

    async def problems(self, groups: Iterable[Iterable[Media]]) -> list[str]:
        """The same of several groups of media, such as the records of a benchmark."""
        found = [list(group) for group in groups]
        media = {_key(medium): medium for group in found for medium in group}
        problems = {key: self._problems[key] for key in media if key in self._problems}
        unknown = {key: medium for key, medium in media.items() if key not in problems}
        looks = [asyncio.create_task(self._look(batch)) for batch in _batches(unknown.values())]
        try:
            for look in looks:
                problems |= await look
        finally:
            for look in looks:
                look.cancel()
        self._problems.update(problems)
        while len(self._problems) > MAX_REMEMBERED:
            self._problems.popitem(last=False)
        return [next(filter(None, (problems[_key(medium)] for medium in group)), "") for group in found]

    async def fetch(self, medium: Media) -> bytes:
        """The bytes of a medium. Raises NotFound, or DataLoss if they changed in storage."""
        return (await self._fetch([medium]))[medium.sha256]

    async def _fetch(self, media: Sequence[Media]) -> MediaByDigest:
        """The bytes of media, of which those that are not in memory come in one stream."""
        known = {m.sha256: self._cached.get(m.sha256) for m in media}
        cached = MediaByDigest({sha256: data for sha256, data in known.items() if data is not None})
        if not (lacking := sorted(known.keys() - cached.keys())):
            return cached
        found = await self._client.fetch_media(lacking)
        for sha256, data in found.items():
            self._cached.put(sha256, data)
        found.update(cached)
        return found

    def in_part(self) -> list[str]:
        """A sentence on the media that the policy shortens or shrinks."""
        if not self._losses:
            return []
        reasons = ", ".join(f"{reason} {n}" for reason, n in sorted(self._losses.items()))
        total = self._losses.total()
        return [f"{total} media objects are used in part: {reasons} (such as {self._first_loss})."]

    async def _look(self, media: Sequence[Media]) -> dict[tuple[str, int], str]:
        """The reason codes of a batch."""
        async with self._looks:
            new = [medium for medium in media if (*_key(medium), self.policy) not in self._found]
            bytes_of = await self._fetch(new) if new else MediaByDigest()
            fetched = [_medium(medium, bytes_of) for medium in new]
            found = await asyncio.to_thread(_losses, fetched, self.policy) if new else []
        looked = dict(zip(map(_key, new), found, strict=True))
        return {_key(medium): self._note(medium, looked.get(_key(medium))) for medium in media}

    def _note(self, medium: Media, looked: MediaLoss | str | None) -> str:
        """Remembers what was found of a medium now or before; returns its reason code."""
        if isinstance(looked, str):
            return looked
        key = (*_key(medium), self.policy)
        loss = self._found[key] = self._found.get(key, looked)
        self._found.move_to_end(key)
        if len(self._found) > MAX_REMEMBERED:
            self._found.popitem(last=False)
        if loss:
            self._first_loss = self._first_loss or loss.detail
            self._losses[loss.reason] += 1
        return ""


def _medium(medium: Media, bytes_of: MediaByDigest) -> MediaBytes | str:
    """A medium, or the reason code of why it is not there."""
    try:
        return MediaBytes(medium.modality, bytes_of[medium.sha256])
    except (NotFound, DataLoss) as error:
        return error.reason


def _key(medium: Media) -> tuple[str, int]:
    return medium.sha256, medium.modality  # a record may call the same bytes a picture, or a sound


def _batches(media: Iterable[Media]) -> Iterator[list[Media]]:
    batch: list[Media] = []
    for medium in media:
        if batch and (len(batch) == BATCH_MEDIA or sum(m.size_bytes for m in (*batch, medium)) > BATCH_BYTES):
            yield batch
            batch = []
        batch.append(medium)
    if batch:
        yield batch


def _losses(media: Sequence[MediaBytes | str], policy: MediaPolicy) -> list[MediaLoss | str | None]:
    """What each medium loses under a policy, or the reason code of why it cannot be used.

    One is decoded at a time, and the arrays, which are large, are dropped here.
    """
    return [medium if isinstance(medium, str) else _loss(medium, policy) for medium in media]


def _loss(medium: MediaBytes, policy: MediaPolicy) -> MediaLoss | str | None:
    try:
        return decode(medium, policy).loss
    except InvalidArgument as error:
        return error.reason
