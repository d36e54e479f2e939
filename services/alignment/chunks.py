"""Works on one chunk: its steps one after the other, each committed before the next begins, exactly once per record.

A step reads its records from the table of the step before (from memory when this process just wrote them), asks a
service, writes the good ones to its own table and the others to the quarantine. Begun again after a crash it computes
only what is missing; in deterministic mode the chunk is asked for whole, because the batch decides the tokens.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from omnialign.v1 import record_pb2
from services.alignment import tables
from services.alignment.counts import tally
from services.alignment.job import Work
from services.alignment.metrics import Metrics
from services.alignment.patience import Patience
from services.alignment.progress import Progress
from services.alignment.store import StepDone
from services.alignment.writing import GroupWriter

Record = record_pb2.Record
Records = list[Record]


@dataclass
class Outcome:
    """What a step made of its records: the good ones, and those that leave the job with `quarantine` set."""

    records: Records = field(default_factory=list)
    rejected: Records = field(default_factory=list)


@dataclass
class Chunk:
    """A chunk while it is worked on. `held` is the purpose of a table with the chunk's records in it, in memory."""

    phase: str
    number: int
    ids: Sequence[str]
    is_repeated: bool
    held: tuple[str, Records] | None = None


@dataclass(frozen=True)
class Step:
    """One step of a chunk.

    `stage` is the stage of the job that it belongs to; `source` the purpose of the table that it reads, empty for the
    job's dataset; `table` the purpose of the one that it writes.
    """

    name: str
    stage: str
    source: str
    table: str
    run: Callable[[Work, Records], Awaitable[Outcome]]
    tokens: Callable[[Record], int]


Report = Callable[[StepDone], Awaitable[None]]


class ChunkWorker:
    """Runs the steps of chunks. `slots` bounds how many ask a service at once, over all jobs of the process."""

    def __init__(
        self,
        report: Report,
        *,
        writer: GroupWriter,
        progress: Progress,
        metrics: Metrics,
        patience: Patience,
        active_steps: int,
    ) -> None:
        self._report, self._writer, self._progress = report, writer, progress
        self._metrics, self._patience = metrics, patience
        self._slots = asyncio.Semaphore(active_steps)

    async def work(self, work: Work, chunk: Chunk, *, step: Step) -> None:
        """Does one step of a chunk, and commits it."""
        begun = time.monotonic()
        inputs = await self._inputs(work, chunk, step=step)
        with self._progress.clock(work.uid, step.stage).running():
            done = await self._committed(work, inputs, step=step) if chunk.is_repeated else Outcome()
            missing = self._missing(work, inputs, done=done)
            made = await self._make(work, missing, step=step)
            await self._commit(work, made, step=step)
        outcome = _merge(inputs, done=done, made=made)
        await self._count(work, outcome, chunk=chunk, step=step, seconds=time.monotonic() - begun)
        chunk.held = (step.table, outcome.records)

    async def read(self, work: Work, source: str, *, ids: Sequence[str]) -> Records:
        """Records of a dataset by id, in order of id; those that are not there are left out."""
        if not ids:
            return []

        async def read() -> Records:
            return [record async for record in work.peers.data.stream_records(source, ids=list(ids))]

        return await self._patience.call(read, uid=work.uid, service="data")

    async def _inputs(self, work: Work, chunk: Chunk, *, step: Step) -> Records:
        if chunk.held is not None and chunk.held[0] == step.source:
            return chunk.held[1]
        return await self.read(work, work.table(step.source) if step.source else work.plan.dataset, ids=chunk.ids)

    async def _committed(self, work: Work, inputs: Records, *, step: Step) -> Outcome:
        """What an earlier attempt committed of the step."""
        ids = [record.id for record in inputs]
        records = await self.read(work, work.table(step.table), ids=ids)
        quarantined = await self.read(work, work.table(tables.QUARANTINE), ids=ids)
        rejected = [record for record in quarantined if record.quarantine.stage == step.name]
        self._metrics.retried.labels(step.stage).inc()
        return Outcome(records, rejected)

    def _missing(self, work: Work, inputs: Records, *, done: Outcome) -> Records:
        there = {record.id for record in (*done.records, *done.rejected)}
        missing = [record for record in inputs if record.id not in there]
        return inputs if missing and work.deterministic else missing

    async def _make(self, work: Work, records: Records, *, step: Step) -> Outcome:
        if not records:
            return Outcome()
        async with self._slots:
            return await step.run(work, records)

    async def _commit(self, work: Work, outcome: Outcome, *, step: Step) -> None:
        await asyncio.gather(
            self._writer.write(work, work.table(tables.QUARANTINE), outcome.rejected),
            self._writer.write(work, work.table(step.table), outcome.records),
        )

    async def _count(self, work: Work, outcome: Outcome, *, chunk: Chunk, step: Step, seconds: float) -> None:
        tokens = sum(map(step.tokens, outcome.records))
        counts = tally(outcome.records, rejected=outcome.rejected, tokens=tokens, seconds=round(seconds, 4))
        await self._report(StepDone(work.uid, chunk.phase, step.name, chunk.number, counts))
        self._metrics.count(step.name, counts)
        self._metrics.step_seconds.labels(step.stage).observe(seconds)
        self._progress.mark(work.uid)


def _merge(inputs: Records, *, done: Outcome, made: Outcome) -> Outcome:
    """Both outcomes as one, in the order of the inputs; what was made now stands over what was there."""
    good = {record.id: record for record in (*done.records, *made.records)}
    bad = {record.id: record for record in (*done.rejected, *made.rejected)}
    order = [record.id for record in inputs]
    return Outcome([good[i] for i in order if i in good], [bad[i] for i in order if i in bad and i not in good])


def plan_chunks(records: Sequence[tuple[str, str]], *, size: int) -> list[list[str]]:
    """Groups (id, subtask) into chunks of one subtask and neighbouring ids: always the same, and alike in length."""
    groups: dict[str, list[str]] = {}
    for record_id, subtask in records:
        groups.setdefault(subtask, []).append(record_id)
    chunks = []
    for subtask in sorted(groups):
        ids = sorted(groups[subtask])
        chunks += [ids[start : start + size] for start in range(0, len(ids), size)]
    return chunks
