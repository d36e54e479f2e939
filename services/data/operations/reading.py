"""Streams of records, counted for the progress, and several of them side by side."""

from collections.abc import AsyncIterator, Sequence

from omnialign.v1.data_service_pb2 import DeriveDatasetResponse as Progress
from omnialign.v1.record_pb2 import Record
from services.data.datasets import Datasets
from services.data.selection import Selection

Row = Sequence[Record | None]


class Reader:
    """Reads records and counts them."""

    def __init__(self, datasets: Datasets, progress: Progress) -> None:
        self._datasets, self._progress = datasets, progress

    async def batches(self, source: str, selection: Selection = Selection()) -> AsyncIterator[list[Record]]:  # noqa: B008
        """The records of a version in order of id, in batches below 1 MiB."""
        async for batch in self._datasets.stream(source, selection):
            self._progress.records_read += len(batch)
            yield batch


async def aligned(streams: Sequence[AsyncIterator[list[Record]]]) -> AsyncIterator[list[Row]]:
    """For each id in any of the streams, in order: the record of each stream, None where it has none; in batches.

    It holds one batch of each stream.
    """
    held: list[list[Record]] = [[] for _ in streams]
    ended = [False for _ in streams]
    while True:
        for place, stream in enumerate(streams):
            while not held[place] and not ended[place]:
                batch = await anext(stream, None)
                held[place], ended[place] = batch or [], batch is None
        if all(ended):
            return
        # Up to here, no stream has an id that is not held.
        last = min(batch[-1].id for batch in held if batch)
        taken = [{record.id: record for record in batch if record.id <= last} for batch in held]
        held = [batch[len(found) :] for batch, found in zip(held, taken, strict=True)]
        yield [[found.get(name) for found in taken] for name in sorted(set[str]().union(*taken))]
