"""The stage `calibrate`: the judge compares annotated pairs that it did not learn from, and the gate is set by that."""

from services.alignment import gate, pairs
from services.alignment.job import CALIBRATE, CALIBRATION, Job, StageStatus
from services.alignment.reading import Reader
from services.alignment.self_improvement import judge_of
from services.pipeline import planning
from services.pipeline.item_calls import ItemCaller
from services.pipeline.kind import JobContext, Outcome, Record, Records, Step, stage_of
from services.pipeline.model_calls import Judge, comparison_call, comparison_tokens, seeds_of
from services.pipeline.quarantine import QUARANTINE
from services.pipeline.service import Toolbox


class CalibrateStage:
    """What the stage does before, in and after its chunks."""

    def __init__(self, tools: Toolbox) -> None:
        self._chunks, self._tables = tools.chunks, tools.tables
        self._retrier, self._update = tools.retrier, tools.updater.update
        self._reader = Reader(tools.retrier)

    def steps(self, caller: ItemCaller) -> tuple[Step, ...]:
        """The one step: the comparison of the preferred response, as the candidate, with the other one."""
        call = comparison_call(
            stage=CALIBRATE, seed=seeds_of(CALIBRATE), judge=_judge, settle=_never, prepare=pairs.ordered
        )

        async def run(context: JobContext, records: Records) -> Outcome:
            return await caller.run(context, records, call)

        return (Step(name=CALIBRATE, stage=CALIBRATE, reads="", writes=CALIBRATION, run=run, tokens=comparison_tokens),)

    async def plan(self, context: JobContext) -> int:
        """Decides which held-out pair is in which chunk; returns the number of chunks, which is 0 for too few pairs."""
        held, preferences = await self._reader.hold_out(context)
        for purpose in (CALIBRATION, QUARANTINE) if held else ():
            await self._tables.create(context, purpose)
        chunks = planning.plan_chunks(planning.streamed(held.items()), size=context.plan.chunk_size)
        planned = await self._chunks.put_chunks(context.uid, phase=CALIBRATE, chunks=chunks)

        def change(job: Job) -> str:
            status = stage_of(job, CALIBRATE)
            if not planned.chunks:
                status.state = StageStatus.STATE_SKIPPED
                job.gate.CopyFrom(gate.uncalibrated(context.plan, preferences))
                return str(job.gate.message)
            status.total, status.dataset = planned.records, context.table(CALIBRATION)
            return f"{planned.records} held-out pairs in {planned.chunks} chunks."

        await self._update(context.uid, CALIBRATE, change)
        return planned.chunks

    async def close(self, context: JobContext) -> None:
        """Calibrates the gate on what the judge made of the pairs, if there are any."""
        if stage_of(context.job, CALIBRATE).state == StageStatus.STATE_SKIPPED:
            return
        version = await self._tables.commit(context, CALIBRATION)

        async def read() -> Records:
            return [record async for record in context.clients.data.stream_records(version)]

        records = await self._retrier.call(read, uid=context.uid, service="data")
        found = gate.calibrate(records, precision=context.plan.gate_precision)

        def change(job: Job) -> str:
            job.gate.CopyFrom(found)
            return str(found.message)

        await self._update(context.uid, CALIBRATE, change)
        await self._tables.link(
            context,
            (context.plan.dataset, version, "subset_of"),
            (context.job.models.judge, version, "calibrated_on"),
            (context.name, version, "produced"),
        )


def _judge(context: JobContext) -> Judge:
    judge = judge_of(context)
    return Judge(judge.model, judge.sampling, judge.form, with_margins=True)


def _never(record: Record) -> bool:
    return False
