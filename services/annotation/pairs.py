"""The pairs of a dataset version, read from the data service."""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

from omnialign.client import AsyncClient
from omnialign.errors import FailedPrecondition, NotFound
from omnialign.v1.record_pb2 import Record, Response

IDS_AT_ONCE = 1000
KEPT_US = 60_000_000
"""How long a pair is kept. A deleted dataset is noticed after no more than that."""
KEPT_BYTES = 64 * 1024 * 1024


class Pairs:
    """Reads records. What is gone is the campaign's state, and not a wrong request."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    async def all(self, version: str) -> AsyncIterator[Record]:
        """Every record of a version, in order of id. Raises NotFound."""
        async for record in self._client.stream_records(version):
            yield record

    async def some(self, version: str, ids: Sequence[str]) -> AsyncIterator[Record]:
        """The records with these ids. Raises FailedPrecondition DATASET_VERSION_GONE."""
        async with _gone_if_missing(version):
            for start in range(0, len(ids), IDS_AT_ONCE):
                part = ids[start : start + IDS_AT_ONCE]
                found = 0
                async for record in self._client.stream_records(version, ids=part):
                    found += 1
                    yield record
                if found < len(part):
                    raise gone(version)


class BlindPairs:
    """Pairs as annotators see them. Reading one takes as long as reading many, so those that follow are read along."""

    def __init__(self, pairs: Pairs, *, now_us: Callable[[], int]) -> None:
        self._pairs, self._now_us = pairs, now_us
        self._kept: OrderedDict[tuple[str, str], tuple[int, Record]] = OrderedDict()
        self._num_bytes = 0
        self._lock = asyncio.Lock()

    async def get(self, version: str, record_id: str, following: Callable[[], Awaitable[Sequence[str]]]) -> Record:
        """A pair; `following` gives its id and those that will be asked for next.

        Raises FailedPrecondition DATASET_VERSION_GONE.
        """
        if (found := self._find(version, record_id)) is not None:
            return found
        async with self._lock:  # many ask for the same at once
            if (found := self._find(version, record_id)) is not None:
                return found
            wanted = None
            async for record in self._pairs.some(version, await following()):
                shown = blind(record)
                self._keep(version, shown)
                wanted = shown if record.id == record_id else wanted
        if wanted is None:
            raise gone(version)
        return wanted

    def _find(self, version: str, record_id: str) -> Record | None:
        read_us, record = self._kept.get((version, record_id), (0, None))
        return record if read_us + KEPT_US > self._now_us() else None

    def _keep(self, version: str, record: Record) -> None:
        """Keeps a pair in place of the oldest ones."""
        key = (version, record.id)
        if key in self._kept:
            self._num_bytes -= self._kept.pop(key)[1].ByteSize()
        self._kept[key] = self._now_us(), record
        self._num_bytes += record.ByteSize()
        while self._num_bytes > KEPT_BYTES:
            self._num_bytes -= self._kept.popitem(last=False)[1][1].ByteSize()


def blind(record: Record) -> Record:
    """A pair as annotators see it: without what people, models and judges said of it, and who wrote what."""
    shown = Record(id=record.id, subtask=record.subtask, history=record.history, prompt=record.prompt)
    shown.responses.extend(Response(content=response.content) for response in record.responses[:2])
    return shown


def gone(version: str) -> FailedPrecondition:
    """The campaign's records are not there any more."""
    return FailedPrecondition(
        f"{version}, whose pairs this campaign annotates, was deleted: what was submitted is kept, and nothing can be "
        "annotated or committed any more.",
        reason="DATASET_VERSION_GONE",
        metadata={"dataset_version": version},
    )


@asynccontextmanager
async def _gone_if_missing(version: str) -> AsyncIterator[None]:
    try:
        yield
    except NotFound as error:
        raise gone(version) from error
