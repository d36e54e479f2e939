"""Reads of records by their ids that begin at the same time, joined: a read of 500 costs little more than one of 64."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from services.pipeline.kind import JobContext, Record, Records

MAX_IDS = 1024
"""Of one read, unless one reader alone wants more."""

Read = Callable[[JobContext, str, Sequence[str]], Awaitable[Records]]
"""The records of a dataset that have one of the ids."""


@dataclass
class _Joined:
    """One read for several readers."""

    ids: list[str] = field(default_factory=list)
    readers: int = 0
    task: "asyncio.Task[dict[str, Record]] | None" = None


class JoinedReads:
    """Joins the reads of one job and dataset that begin in the same turn of the event loop."""

    def __init__(self, read: Read) -> None:
        self._read = read
        self._open: dict[tuple[str, str], _Joined] = {}
        """Reads that have not begun, by the uid of the job and the name of the dataset."""

    async def read(self, context: JobContext, dataset: str, ids: Sequence[str]) -> Records:
        """Records by id, in order of id; those that the dataset does not have are left out.

        Readers share the records. What the read raises, each of them raises.
        """
        if not ids:
            return []
        key = (context.uid, dataset)
        joined = self._open.get(key)
        if joined is None or len(joined.ids) + len(ids) > MAX_IDS:
            joined = self._open[key] = _Joined()
            joined.task = asyncio.create_task(self._run(context, dataset, joined))
        assert joined.task is not None
        joined.ids += ids
        joined.readers += 1
        try:
            # One reader that is cancelled gives up its own wait; the read ends once nobody waits for it.
            found = await asyncio.shield(joined.task)
        finally:
            joined.readers -= 1
            if not joined.readers:
                joined.task.cancel()
                self._close(key, joined)  # cancelled before it began, it will not do so itself
        return [found[name] for name in sorted(ids) if name in found]

    async def _run(self, context: JobContext, dataset: str, joined: _Joined) -> dict[str, Record]:
        await asyncio.sleep(0)  # others that begin now join first
        self._close((context.uid, dataset), joined)
        return {record.id: record for record in await self._read(context, dataset, joined.ids)}

    def _close(self, key: tuple[str, str], joined: _Joined) -> None:
        """Lets nobody join a read any more."""
        if self._open.get(key) is joined:
            del self._open[key]
