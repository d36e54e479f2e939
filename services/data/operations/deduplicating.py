"""Removing duplicates: of records with the same content, or nearly the same, the one with the first id stays.

Records are near duplicates if their messages have parts of the same kinds in the same order, the same numbers in their
texts, and each text and each medium is similar enough to the other record's.
"""

import hashlib
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

from omnialign.content import media_of
from omnialign.v1.content_pb2 import MODALITY_TEXT, Content, Media, Modality
from omnialign.v1.data_service_pb2 import DeriveDatasetResponse as Progress
from omnialign.v1.dataset_operations_pb2 import Deduplication, DuplicatePair
from omnialign.v1.record_pb2 import Record
from services.data.objects.base import run_in_pool
from services.data.operations import sketches
from services.data.operations.content import content_key, messages, pieces, roles
from services.data.operations.fingerprints import Fingerprint
from services.data.operations.known import Known, KnownRecord
from services.data.operations.media_reading import MediaReader
from services.data.operations.reading import Reader

TEXT_SIMILARITY, MEDIA_SIMILARITY = 0.9, 0.95
REST_BYTES = 8

Similar = tuple[float, int]
"""How similar two things are, and of which modality they are."""


class Deduplicator:
    """Finds duplicates; for one dataset at a time."""

    def __init__(self, folder: Path, *, media: MediaReader, pool: ThreadPoolExecutor) -> None:
        self._folder, self._media, self._pool = folder, media, pool

    async def deduplicated(
        self, reader: Reader, source: str, wanted: Deduplication, progress: Progress
    ) -> AsyncIterator[list[Record]]:
        """The records that stay, in batches; `progress` gets the pairs of which one is removed."""
        with closing(await run_in_pool(self._pool, Known, self._folder)) as known:
            search = _Search(known, wanted)
            async for batch in reader.batches(source):
                if wanted.near:
                    progress.unread_media_count += await self._learn(batch, search)
                kept, pairs = await run_in_pool(self._pool, search.sorted_out, batch)
                progress.duplicate_count += len(pairs)
                progress.duplicates.extend(pairs)
                yield kept

    async def _learn(self, batch: Iterable[Record], search: "_Search") -> int:
        """Makes the media of records known; returns the number of those that cannot be read or decoded."""
        new = await run_in_pool(self._pool, search.new_media, batch)
        found = await self._media.fingerprints(new)
        await run_in_pool(self._pool, search.learn, new, found)
        return len(new) - len(found)


class _Search:
    """Compares each record with those that stay. Blocking."""

    def __init__(self, known: Known, wanted: Deduplication) -> None:
        self._known, self._wanted = known, wanted
        is_set = wanted.HasField("threshold")
        self._text_similarity = wanted.threshold if is_set else TEXT_SIMILARITY
        self._media_similarity = wanted.threshold if is_set else MEDIA_SIMILARITY

    def new_media(self, batch: Iterable[Record]) -> list[Media]:
        """The media of records that are not known yet, each once."""
        named = {one.sha256: one for record in batch for one in media_of(self._messages(record))}
        return [one for sha256, one in named.items() if not self._known.has_medium(bytes.fromhex(sha256))]

    def learn(self, media: Iterable[Media], found: Mapping[str, Fingerprint]) -> None:
        """Makes media known, with the fingerprints of those that have one, by digest."""
        for one in media:
            sha256, described = bytes.fromhex(one.sha256), found.get(one.sha256)
            self._known.add_medium(sha256, described, threshold=self._media_similarity)

    def sorted_out(self, batch: Iterable[Record]) -> tuple[list[Record], list[DuplicatePair]]:
        """The records that stay, and the pairs of which one does not."""
        kept, pairs = list[Record](), list[DuplicatePair]()
        for record in batch:
            pair = self._pair(record)
            kept += [record] if pair is None else []
            pairs += [] if pair is None else [pair]
        return kept, pairs

    def _pair(self, record: Record) -> DuplicatePair | None:
        """The record and one that it repeats; if there is none, it becomes known."""
        prompt_only = self._wanted.prompts_only
        content, rest = content_key(record, prompt_only=prompt_only), _rest_key(record, prompt_only=prompt_only)
        if (same := self._known.same(content)) is not None:
            return _made(same, record, rest, exact=True)
        if not self._wanted.near:
            self._known.add(KnownRecord(record.id, content, rest), ())
            return None
        described, salt = self._described(record, content, rest)
        keys = [salt + key for key in sketches.keys(described.sketches, self._text_similarity)]
        for other in self._known.similar(keys):
            similar, modality = min(self._similarities(described, other, record), default=(1.0, MODALITY_TEXT))
            if similar > 0:
                return _made(other, record, rest, distance=1 - similar, modality=modality)
        self._known.add(described, keys)
        return None

    def _messages(self, record: Record) -> Iterable[Content]:
        """What is compared of a record."""
        return messages(record, prompt_only=self._wanted.prompts_only)

    def _described(self, record: Record, content: bytes, rest: bytes) -> tuple[KnownRecord, bytes]:
        """What is compared of a record, and a key of what must be equal: kinds of parts, numbers, groups of media."""
        salt, texts, media = hashlib.blake2b(roles(record), digest_size=16), list[sketches.Sketch](), list[bytes]()
        for message in self._messages(record):
            salt.update(b"M")
            words = list[str]()
            for piece in pieces(message):
                if isinstance(piece, Media):
                    digest = bytes.fromhex(piece.sha256)
                    media.append(digest)
                    salt.update(f"{piece.modality}:{self._known.leader(digest)};".encode())
                else:
                    words.append(piece)
                    salt.update(b"T" + "|".join(sketches.numbers(piece)).encode())
            texts.append(sketches.sketch("\n".join(words)))
        return KnownRecord(record.id, content, rest, tuple(texts), tuple(media)), salt.digest()

    def _similarities(self, one: KnownRecord, other: KnownRecord, record: Record) -> Iterator[Similar]:
        """How similar the texts and media of two records are; 0 for what is not similar enough."""
        for first, second in zip(one.sketches, other.sketches, strict=True):
            found = sketches.similarity(first, second)
            yield found if found >= self._text_similarity else 0.0, MODALITY_TEXT
        kinds = [medium.modality for medium in media_of(self._messages(record))]
        for (digest, earlier), kind in zip(zip(one.media, other.media, strict=True), kinds, strict=False):
            found = self._known.media_similarity(digest, earlier)
            yield found if found >= self._media_similarity else 0.0, kind


def _made(
    kept: KnownRecord, removed: Record, rest: bytes, *, exact: bool = False, distance: float = 0.0, modality: int = 0
) -> DuplicatePair:
    return DuplicatePair(
        kept_id=kept.id,
        removed_id=removed.id,
        exact=exact,
        distance=distance,
        differs_most=Modality.ValueType(modality),
        annotated_differently=kept.rest != rest,
    )


def _rest_key(record: Record, *, prompt_only: bool) -> bytes:
    """Equal for records that are equal in all but their ids and what is compared of their content."""
    rest = Record()
    rest.CopyFrom(record)
    for name in ("id", "history", "prompt"):
        rest.ClearField(name)
    for response in () if prompt_only else rest.responses:
        response.ClearField("content")
    return hashlib.blake2b(rest.SerializeToString(deterministic=True), digest_size=REST_BYTES).digest()
