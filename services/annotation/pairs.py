"""The pairs of a dataset version, read from the data service."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from omnialign.client import AsyncClient
from omnialign.errors import FailedPrecondition, NotFound
from omnialign.v1.record_pb2 import Record, Response

IDS_AT_ONCE = 1000


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

    async def one(self, version: str, record_id: str) -> Record:
        """One record. Raises FailedPrecondition DATASET_VERSION_GONE."""
        (record,) = [record async for record in self.some(version, [record_id])]
        return record


def blind(record: Record) -> Record:
    """A pair as annotators see it: without what people, models and judges said of it, and who wrote what."""
    shown = Record(id=record.id, subtask=record.subtask, prompt=record.prompt)
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
