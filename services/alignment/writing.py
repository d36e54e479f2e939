"""One writer for the tables of all jobs, which joins what is written at the same time."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from omnialign.v1 import record_pb2
from services.alignment.grouping import Grouped
from services.alignment.job import Work

MAX_GROUP_RECORDS = 2048

Append = Callable[[Work, str, Sequence[record_pb2.Record]], Awaitable[None]]
"""Writes to a table: told the job, the table's name, and the records."""


class GroupWriter:
    """Appends records to tables, joining concurrent writes of one table. `append` must be idempotent by record id."""

    def __init__(self, append: Append) -> None:
        self._append = append
        self._tables: dict[str, Grouped[record_pb2.Record]] = {}

    async def write(self, work: Work, name: str, records: Sequence[record_pb2.Record]) -> None:
        """Writes the records of a job to the table `name`; returns once they are stored."""
        if name not in self._tables:

            async def append(some: Sequence[record_pb2.Record]) -> None:
                await self._append(work, name, some)

            self._tables[name] = Grouped(append, limit=MAX_GROUP_RECORDS)
        await self._tables[name].add(records)

    async def close(self) -> None:
        """Stops all writes; whoever waits for one is cancelled."""
        await asyncio.gather(*(table.close() for table in self._tables.values()))
        self._tables.clear()
