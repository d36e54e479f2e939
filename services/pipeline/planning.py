"""Plans that come out the same however often they are made: chunks, subsets, seeds and request ids of a job.

All of these are pure functions of the job's seed or uid. They hash instead of drawing from a generator with state, so
that each result is independent of order, restarts and neighbours.
"""

import hashlib
import math
import uuid
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Sequence
from typing import TypeVar

from omnialign.v1.record_pb2 import Record

T = TypeVar("T")

PAGE_BYTES = 4 * 1024 * 1024

_NAMESPACE = uuid.UUID("6f2d1c3e-8a54-5b7e-9c10-0d4f5a6b7c8d")


async def plan_chunks(records: AsyncIterable[tuple[str, str]], *, size: int) -> AsyncIterator[list[str]]:
    """Groups (id, subtask) into chunks of at most `size` ids of one subtask that follow each other.

    One subtask per chunk, because its records are alike in length and modality and so batch well. Memory holds one open
    chunk of each subtask.
    """
    # Every plan of the same records is the same: chunks come as they are full, and those that are not by subtask.
    open_chunks: dict[str, list[str]] = {}
    async for record_id, subtask in records:
        chunk = open_chunks.setdefault(subtask, [])
        chunk.append(record_id)
        if len(chunk) == size:
            yield open_chunks.pop(subtask)
    for subtask in sorted(open_chunks):
        yield open_chunks[subtask]


async def streamed(items: Iterable[T]) -> AsyncIterator[T]:
    """A list as a stream."""
    for item in items:
        yield item


async def pages(records: AsyncIterable[Record], *, size: int) -> AsyncIterator[list[Record]]:
    """A stream of records in lists of at most `size` and about `PAGE_BYTES`, or of one record that is larger."""
    page, size_bytes = list[Record](), 0
    async for record in records:
        page.append(record)
        size_bytes += record.ByteSize()
        if len(page) == size or size_bytes >= PAGE_BYTES:
            yield page
            page, size_bytes = [], 0
    if page:
        yield page


def record_seed(seed: int, *, stage: str, record_id: str) -> int:
    """Seed of one record's own random stream in one stage; below 2**63, which every engine accepts."""
    digest = hashlib.sha256(f"{seed}\0{stage}\0{record_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def subset(ids: Iterable[str], *, seed: int, count: int) -> list[str]:
    """`count` of the ids, drawn regardless of their order. Subsets of one seed are nested: a larger count keeps every
    id of a smaller one."""
    # The ids with the smallest hashes: whether one is among them does not depend on which others there are.
    return sorted(sorted(ids, key=lambda i: (record_seed(seed, stage="subset", record_id=i), i))[:count])


def limited(records: Sequence[tuple[str, str]], *, seed: int, limit: int) -> list[tuple[str, str]]:
    """At most `limit` of the (id, subtask), in their order; 0 means all."""
    if not limit or len(records) <= limit:
        return list(records)
    chosen = set(subset((record_id for record_id, _ in records), seed=seed, count=limit))
    return [record for record in records if record[0] in chosen]


def share(total: int, *, fraction: float) -> int:
    """Number of records in a fraction of `total`: rounded up, so that a fraction above zero is never empty."""
    # Rounding first keeps 0.1 * 30 = 3.0000000000000004 from becoming 4.
    return min(total, math.ceil(round(total * fraction, 9)))


def request_id(uid: str, purpose: str) -> str:
    """The UUID under which a job asks another service for something once, however often the job is restarted."""
    return str(uuid.uuid5(_NAMESPACE, f"{uid}/{purpose}"))
