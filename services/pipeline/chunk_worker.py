"""Works on one chunk: its steps in order, each committed before the next begins, exactly once per record.

A step reads its records from the table of the step before it (from memory if this process just wrote them), makes
something of them, and writes the good ones to its own table and the others to the quarantine. Compute is at-least-once;
the commit is exactly-once, because tables are merged by record id. Three crash windows matter:

1. before anything was written: the step runs again, with the same seeds;
2. after some records were written, before the step was committed: the step reads what is there and makes only the rest
   (in a deterministic job all of them again, because the batch decides the tokens);
3. after the step was committed: the chunk goes on with the next one.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from services.pipeline.chunk_store import StepCommit
from services.pipeline.counts import tally
from services.pipeline.group_commit import GroupCommitter, Makers, TableWriter
from services.pipeline.joined_reads import JoinedReads
from services.pipeline.kind import JobContext, JobProgram, Outcome, Records, Step
from services.pipeline.metrics import PipelineMetrics
from services.pipeline.progress import Progress, StageUpdater
from services.pipeline.quarantine import QUARANTINE
from services.pipeline.service_calls import ServiceRetrier


@dataclass
class Chunk:
    """A chunk while it is worked on."""

    phase: str
    number: int
    ids: Sequence[str]
    is_repeated: bool
    """Whether an earlier attempt may have written records of the step that comes next."""
    cached_output: tuple[str, Records] | None = None
    """Purpose of the newest table that this process wrote, with the chunk's records in it."""


class ChunkWorker:
    """Runs the steps of chunks, at most `active_steps` at once over all jobs of the process."""

    def __init__(
        self,
        program: JobProgram,
        *,
        committer: GroupCommitter[StepCommit],
        writer: TableWriter,
        makers: Makers,
        updater: StageUpdater,
        progress: Progress,
        metrics: PipelineMetrics,
        retrier: ServiceRetrier,
        active_steps: int,
    ) -> None:
        self._program = program
        self._committer, self._writer, self._makers = committer, writer, makers
        self._updater, self._progress = updater, progress
        self._metrics, self._retrier = metrics, retrier
        self._reads = JoinedReads(self._read)
        self._slots = asyncio.Semaphore(active_steps)

    async def run_step(self, context: JobContext, chunk: Chunk, *, step: Step) -> None:
        """Runs one step of a chunk, and commits it."""
        begun, context = time.monotonic(), replace(context, reused=set())
        clock = self._updater.clock(context.uid, step.stage)
        with self._makers.working():
            inputs = await self._inputs(context, chunk, step=step)
            with clock.running():
                stored = await self._stored(context, inputs, step=step) if chunk.is_repeated else Outcome()
                missing = _missing(context, inputs, stored=stored)
                made = await self._make(context, missing, step=step)
        with clock.running():
            await self._store(context, made, step=step)
        outcome = _merged(inputs, stored=stored, made=made)
        await self._commit(context, outcome, chunk=chunk, step=step, seconds=time.monotonic() - begun)
        chunk.cached_output = (step.writes, outcome.records)  # saves the next step a read

    def forget(self, uid: str) -> None:
        """Drops what is kept of a job that ended."""
        self._writer.forget(uid)

    async def _inputs(self, context: JobContext, chunk: Chunk, *, step: Step) -> Records:
        if chunk.cached_output is not None and chunk.cached_output[0] == step.reads:
            return chunk.cached_output[1]
        source = context.table(step.reads) if step.reads else context.plan.dataset
        return await self._reads.read(context, source, chunk.ids)

    async def _read(self, context: JobContext, dataset: str, ids: Sequence[str]) -> Records:
        """Records of a dataset by id, in order of id; those that it does not have are left out."""

        async def read() -> Records:
            return [record async for record in context.clients.data.stream_records(dataset, ids=list(ids))]

        return await self._retrier.call(read, uid=context.uid, service="data")

    async def _stored(self, context: JobContext, inputs: Records, *, step: Step) -> Outcome:
        """What an earlier attempt stored of the step."""
        ids = [record.id for record in inputs]
        records = await self._reads.read(context, context.table(step.writes), ids)
        in_quarantine = await self._reads.read(context, context.table(QUARANTINE), ids)
        self._metrics.steps_repeated.labels(step.label or step.stage).inc()
        return Outcome(records, [record for record in in_quarantine if record.quarantine.stage == step.name])

    async def _make(self, context: JobContext, records: Records, *, step: Step) -> Outcome:
        if not records:
            return Outcome()
        async with self._slots:
            return await step.run(context, records)

    async def _store(self, context: JobContext, outcome: Outcome, *, step: Step) -> None:
        await asyncio.gather(
            self._writer.write(context, context.table(QUARANTINE), outcome.rejected),
            self._writer.write(context, context.table(step.writes), outcome.records),
        )

    async def _commit(self, context: JobContext, outcome: Outcome, *, chunk: Chunk, step: Step, seconds: float) -> None:
        tokens = sum(map(step.tokens, outcome.records))
        counts = tally(
            outcome.records,
            rejected=outcome.rejected,
            measures=step.measures,
            tokens=tokens,
            reused=len(context.reused),
            seconds=round(seconds, 4),
        )
        # Only now that all records are stored may the step count as done (see crash window 2).
        await self._committer.add([StepCommit(context.uid, chunk.phase, step.name, chunk.number, counts)])
        self._metrics.count_step(step, counts, seconds=seconds)
        self._program.observe_step(step, counts)
        self._progress.mark(context.uid)


def _missing(context: JobContext, inputs: Records, *, stored: Outcome) -> Records:
    """The records that the step still has to work on."""
    there = {record.id for record in (*stored.records, *stored.rejected)}
    missing = [record for record in inputs if record.id not in there]
    return inputs if missing and context.is_deterministic else missing


def _merged(inputs: Records, *, stored: Outcome, made: Outcome) -> Outcome:
    """Both outcomes as one, in the order of the inputs; what was made now replaces what was stored before."""
    good = {record.id: record for record in (*stored.records, *made.records)}
    bad = {record.id: record for record in (*stored.rejected, *made.rejected)}
    order = [record.id for record in inputs]
    return Outcome([good[i] for i in order if i in good], [bad[i] for i in order if i in bad and i not in good])
