"""A throw-away job kind: it counts the letters of every prompt in a dataset, twice, and asks nobody.

Its messages are made here, at run time, so nothing in `services.pipeline` or in the contract can know them.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from google.protobuf import descriptor_pb2, descriptor_pool, duration_pb2, message_factory, timestamp_pb2
from google.rpc import status_pb2

from omnialign.content import text_of
from services.pipeline.config import PipelineConfig
from services.pipeline.counts import Counts
from services.pipeline.kind import JobContext, JobKind, JobRun, Outcome, Phase, Record, Records, Step, stage_of
from services.pipeline.planning import plan_chunks
from services.pipeline.quarantine import QUARANTINE, quarantined
from services.pipeline.service import Toolbox
from services.runtime.migrations import Migrations

JOB_STATES = ("UNSPECIFIED", "CANCELLED", "QUEUED", "CANCELLING", "RUNNING", "FAILED", "PAUSED", "SUCCEEDED")
"""The same states as those of every kind, but with numbers of their own."""
STAGE_STATES = ("UNSPECIFIED", "FAILED", "SKIPPED", "DONE", "RUNNING", "PENDING")
STAGES = ("count", "publish")
LETTERS = "letters"


def _field(name: str, number: int, kind: str, *, repeated: bool = False) -> descriptor_pb2.FieldDescriptorProto:
    scalars = {"string": 9, "int64": 3, "int32": 5, "double": 1, "enum": 14}
    made = descriptor_pb2.FieldDescriptorProto(name=name, number=number, label=3 if repeated else 1)
    if kind in scalars:
        made.type = scalars[kind]
    elif kind.endswith("State"):
        made.type, made.type_name = 14, kind
    else:
        made.type, made.type_name = 11, kind
    return made


def _message(
    name: str, fields: Mapping[str, str], *, states: tuple[str, ...] = (), repeated: tuple[str, ...] = ()
) -> descriptor_pb2.DescriptorProto:
    made = descriptor_pb2.DescriptorProto(name=name)
    for number, (field, kind) in enumerate(fields.items(), start=1):
        made.field.append(_field(field, number, kind, repeated=field in repeated))
    if states:
        enum = made.enum_type.add(name="State")
        for number, state in enumerate(states):
            enum.value.add(name=f"STATE_{state}", number=number)
    return made


def _messages() -> dict[str, Any]:
    stamp, status = ".google.protobuf.Timestamp", ".google.rpc.Status"
    file = descriptor_pb2.FileDescriptorProto(name="census.proto", package="census", syntax="proto3")
    for imported in (timestamp_pb2, duration_pb2, status_pb2):
        file.dependency.append(imported.DESCRIPTOR.name)
    counts = dict.fromkeys(("completed", "total", "quarantined", "abstained", "tokens", "reused"), "int64")
    stage = {"stage": "string", "state": ".census.Stage.State", "elapsed": ".google.protobuf.Duration", **counts}
    job = {
        "uid": "string",
        "name": "string",
        "state": ".census.Job.State",
        "stages": ".census.Stage",
        "error": status,
        "create_time": stamp,
        "update_time": stamp,
        "end_time": stamp,
        "num_letters": "int64",
    }
    file.message_type.append(_message("Stage", stage, states=STAGE_STATES))
    file.message_type.append(_message("Job", job, states=JOB_STATES, repeated=("stages",)))
    file.message_type.append(_message("Plan", {"dataset": "string", "chunk_size": "int32", "forbidden": "string"}))
    event = {"job": ".census.Job", "message": "string", "event_time": stamp, "sequence": "int64"}
    file.message_type.append(_message("Event", event))
    request = {"parent": "string", "request_id": "string", "census_id": "string", "plan": ".census.Plan"}
    file.message_type.append(_message("CreateRequest", request))
    pool = descriptor_pool.Default()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"census.{name}"))
        for name in ("Stage", "Job", "Plan", "Event", "CreateRequest")
    }


_MADE = _messages()
Stage, Job, Plan, Event, CreateRequest = _MADE.values()

CENSUS = JobKind(
    name="census",
    noun="census",
    pattern="projects/{project}/censuses/{census}",
    job=Job,
    plan=Plan,
    stage=Stage,
    event=Event,
    event_field="job",
    quota="datasets",
    migrations=Migrations("census", Path(__file__).parent / "census_migrations", witness="census_jobs"),
    quarantine_limit=lambda plan: 0.5,
    is_deterministic=lambda plan: False,
)


@dataclass(frozen=True, kw_only=True)
class CensusConfig(PipelineConfig):
    """Where the only service is that a census needs."""

    ENV_PREFIX: ClassVar[str] = "OMNIALIGN_CENSUS_"

    data_address: str


class CensusProgram:
    """Counts the letters of prompts, checks the count, and publishes the sum."""

    def __init__(self, tools: Toolbox) -> None:
        self._tools = tools
        self.counted: list[str] = []
        """Ids in the order in which they were counted, repetitions included."""
        self.entered, self.release = asyncio.Event(), asyncio.Event()
        self.release.set()
        steps = (
            Step(name="count", stage="count", reads="", writes="count", run=self._count, tokens=_letters),
            Step(
                name="check",
                stage="count",
                reads="count",
                writes="check",
                run=self._check,
                tokens=lambda record: 0,
                measures=lambda record: {"num_letters": _letters(record)},
            ),
        )
        self._phase = Phase(name="count", steps=steps, plan=self._plan)
        self.phases = (self._phase,)

    async def run(self, run: JobRun) -> None:
        await run.chunks(self._phase)
        await run.stage("publish", self._publish)

    def has_external_work(self, job: Any) -> bool:
        return False

    async def cancel_external_work(self, context: JobContext) -> None:
        pass

    def summarize(self, job: Any, totals: Mapping[str, Counts]) -> None:
        job.num_letters = totals.get("check", Counts()).measure("num_letters")

    def observe_step(self, step: Step, counts: Counts) -> None:
        pass

    def observe_job(self, job: Any) -> None:
        pass

    async def _plan(self, context: JobContext) -> int:
        for purpose in ("count", "check", QUARANTINE):
            await self._tools.tables.create(context, purpose)
        records = ((r.id, r.subtask) async for r in context.clients.data.stream_records(context.plan.dataset))
        chunks = plan_chunks(records, size=context.plan.chunk_size)
        planned = await self._tools.chunks.put_chunks(context.uid, phase="count", chunks=chunks)

        def change(job: Any) -> str:
            stage_of(job, "count").total = planned.records
            return f"{planned.records} prompts to count."

        await self._tools.updater.update(context.uid, "count", change)
        return planned.chunks

    async def _count(self, context: JobContext, records: Records) -> Outcome:
        self.entered.set()
        await self.release.wait()
        outcome = Outcome()
        for record in records:
            self.counted.append(record.id)
            text = text_of(record.prompt)
            if context.plan.forbidden and context.plan.forbidden in text:
                outcome.rejected.append(quarantined(record, stage="count", reason="FORBIDDEN", message=text))
            else:
                record.labels[LETTERS] = str(len(text))
                outcome.records.append(record)
        return outcome

    async def _check(self, context: JobContext, records: Records) -> Outcome:
        assert all(_letters(record) == len(text_of(record.prompt)) for record in records)
        return Outcome(records)

    async def _publish(self, context: JobContext) -> str:
        return await self._tools.tables.commit(context, "check")


def _letters(record: Record) -> int:
    return int(record.labels[LETTERS])
