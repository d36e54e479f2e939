"""How the stages of a job read its records: as streams that can be begun anew, however many there are.

Which records are drawn is decided in one pass and told by their ids in the next, so no list of them is ever in memory.
"""

from collections.abc import AsyncIterator, Callable

from services.alignment import gate, pairs
from services.pipeline.drawing import Drawn, draw
from services.pipeline.kind import JobContext, Record
from services.pipeline.service_calls import ServiceRetrier

Stream = Callable[[], AsyncIterator[Record]]
"""Records in order of id, each time from the beginning."""


class Reader:
    """Reads on behalf of all jobs of a process; waits for the data service while it is away."""

    def __init__(self, retrier: ServiceRetrier) -> None:
        self._retrier = retrier

    async def draw(self, context: JobContext, stream: Stream, count: Callable[[int], int]) -> Drawn:
        """As many of the records as `count` says of their number, drawn by the job's seed."""

        async def ids() -> AsyncIterator[str]:
            async for record in stream():
                yield record.id

        return await self._retrier.call(
            lambda: draw(ids, seed=context.plan.seed, count=count), uid=context.uid, service="data"
        )

    async def limited(self, context: JobContext, stream: Stream, *, limit: int) -> Stream:
        """At most `limit` of the records, drawn by the job's seed; 0 means all."""
        if not limit:
            return stream
        drawn = await self.draw(context, stream, lambda total: limit)
        return lambda: chosen(stream(), drawn.takes)

    async def hold_out(self, context: JobContext) -> tuple[dict[str, str], int]:
        """The annotated pairs that calibrate the gate, with their subtasks, and the number of all preferences."""

        async def read() -> tuple[dict[str, str], int]:
            holdout = gate.Holdout(context.plan)
            async for record in split(context, context.plan.feedback_split)():
                if pairs.has_preference(record):
                    holdout.add(record.id, record.subtask)
            return holdout.close(), holdout.preferences

        return await self._retrier.call(read, uid=context.uid, service="data")


def split(context: JobContext, name: str) -> Stream:
    """The records of a split in the subtasks of the job."""
    return lambda: pairs.split_records(context.plan, context.clients, split=name)


async def wanted(records: AsyncIterator[Record], is_wanted: Callable[[Record], bool]) -> AsyncIterator[Record]:
    """Those of the records that are wanted."""
    async for record in records:
        if is_wanted(record):
            yield record


def chosen(records: AsyncIterator[Record], takes: Callable[[str], bool]) -> AsyncIterator[Record]:
    """Those of the records whose ids are taken."""
    return wanted(records, lambda record: takes(record.id))
