"""Names of the tables that a job writes, and one writer for them."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from omnialign.v1 import record_pb2
from services.alignment.grouping import Grouped

SAMPLE, CRITIQUE, REFINE, VERIFY = "sample", "critique", "refine", "verify"
LOOP_STAGES = (SAMPLE, CRITIQUE, REFINE, VERIFY)
PAIRS, QUARANTINE, FEEDBACK, JUDGEMENT = "pairs", "quarantine", "feedback", "judgement"
ANSWERS_BASE, ANSWERS_ALIGNED, EVALUATION = "answers-base", "answers-aligned", "evaluation"
EVALUATION_STEPS = (ANSWERS_BASE, ANSWERS_ALIGNED, EVALUATION)

MAX_GROUP_RECORDS = 2048

Append = Callable[[str, str, Sequence[record_pb2.Record]], Awaitable[None]]
"""Writes to a table: told the job's uid, the table's name, and the records."""


def table(job_name: str, purpose: str) -> str:
    """Name of the dataset that holds one purpose of a job: `.../alignmentJobs/j` -> `.../datasets/j-sample`."""
    project, _, job_id = job_name.partition("/alignmentJobs/")
    return f"{project}/datasets/{job_id}-{purpose}"


class GroupWriter:
    """Appends records to tables, joining concurrent writes of one table. `append` must be idempotent by record id."""

    def __init__(self, append: Append) -> None:
        self._append = append
        self._tables: dict[str, Grouped[record_pb2.Record]] = {}

    async def write(self, uid: str, name: str, records: Sequence[record_pb2.Record]) -> None:
        """Writes the records of a job to the table `name`; returns once they are stored."""
        if name not in self._tables:

            async def append(some: Sequence[record_pb2.Record]) -> None:
                await self._append(uid, name, some)

            self._tables[name] = Grouped(append, limit=MAX_GROUP_RECORDS)
        await self._tables[name].add(records)

    async def close(self) -> None:
        """Stops all writes; whoever waits for one is cancelled."""
        await asyncio.gather(*(table.close() for table in self._tables.values()))
        self._tables.clear()
