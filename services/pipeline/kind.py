"""What a job kind registers with the pipeline, and what the pipeline hands to the kind's code.

A kind is described by a `JobKind` (what its messages are called) and programmed by a `JobProgram` (what its jobs do). A
program works on chunks of records in *phases*; a phase has *steps*, each of which every chunk goes through in order.
*Stages* are what people see of a job: a step belongs to one stage, and a stage may have several steps, or none.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from sqlalchemy import Table

from omnialign import names
from omnialign.v1 import record_pb2
from services.pipeline.counts import Counts
from services.pipeline.service_calls import ServiceClients
from services.runtime.limits import Kind as Quota
from services.runtime.migrations import Migrations

Record = record_pb2.Record
Records = list[Record]

Job = Any
"""The job message of a kind. It has `name`, `uid`, `state`, `stages`, `error`, `create_time`, `update_time` and
`end_time`, and a `State` enum with QUEUED, RUNNING, PAUSED, SUCCEEDED, FAILED, CANCELLING and CANCELLED. Each of its
`stages` has `stage`, `state`, `completed`, `total`, `quarantined`, `abstained`, `elapsed`, `tokens` and `reused`, and a
`State` enum with PENDING, RUNNING, DONE, SKIPPED and FAILED."""

StageStatus = Any
"""One entry of a job's `stages`."""

Plan = Any
"""The spec message of a kind, with names resolved and defaults filled in: what the stages work by."""

Change = Callable[[Job], str | None]
"""Edits a job in place and returns the sentence of the event to record; None leaves the job as it was.

It runs in another thread, and again when its transaction is repeated, so it must do nothing else."""


@dataclass(frozen=True, kw_only=True)
class JobKind:
    """What the jobs of a kind look like."""

    name: str
    """Prefix of the kind's tables, queues, workflows and metrics, such as `alignment`."""

    noun: str
    """What messages call one of its jobs, such as `alignment job`."""

    pattern: str
    """Pattern of the jobs' resource names (`omnialign.names`)."""

    job: type[Any]
    plan: type[Any]
    stage: type[Any]
    """The message of one entry of `job.stages`."""

    event: type[Any]
    """The message of an event, with `sequence`, `message`, `event_time` and the job."""

    event_field: str
    """Field of `event` that holds the job."""

    quota: Quota
    """The quota that bounds the unfinished jobs of a project."""

    migrations: Migrations
    """How the kind's tables (`schema.tables`) came to be."""

    own_tables: tuple[Table, ...] = ()
    """Tables that only this kind has, with the `uid` of a job in each row: they go with the job."""

    quarantine_limit: Callable[[Plan], float]
    """Share of a stage's records that may be quarantined before the job fails."""

    is_deterministic: Callable[[Plan], bool]
    """Whether the same request must give the same tokens again, so that a chunk is always sent whole."""

    @property
    def ended(self) -> tuple[int, ...]:
        """States that a job never leaves."""
        return (self.job.STATE_SUCCEEDED, self.job.STATE_FAILED, self.job.STATE_CANCELLED)

    @property
    def unfinished(self) -> tuple[int, ...]:
        """States of a job that still has work to do."""
        return (self.job.STATE_QUEUED, self.job.STATE_RUNNING, self.job.STATE_PAUSED, self.job.STATE_CANCELLING)

    def state_label(self, state: int) -> str:
        """A state in one word, such as `running`, as metrics and messages name it."""
        return str(self.job.State.Name(state)).removeprefix("STATE_").lower()


@dataclass(frozen=True)
class JobContext:
    """One job while a step works on it: the job and its plan as they were when the step began, and the services."""

    kind: JobKind
    job: Job
    plan: Plan
    clients: ServiceClients
    reused: set[str] = field(default_factory=set)
    """Ids of the items of a step that nobody was asked about, because an earlier answer was kept."""

    @property
    def uid(self) -> str:
        """Identity of the job."""
        return str(self.job.uid)

    @property
    def name(self) -> str:
        """Resource name of the job."""
        return str(self.job.name)

    @property
    def is_deterministic(self) -> bool:
        """Whether a chunk must always be sent whole: the batch decides the tokens."""
        return self.kind.is_deterministic(self.plan)

    def table(self, purpose: str) -> str:
        """Name of the dataset that holds one purpose of the job, such as `projects/p/datasets/job-sample`."""
        return table_of(self.name, purpose)


def table_of(job: str, purpose: str) -> str:
    """Name of the dataset that holds one purpose of a job, such as `projects/p/datasets/job-sample`."""
    dataset = f"{names.id_of(job)}-{purpose}"
    return names.format_name(names.DATASET, project=names.project_of(job), dataset=dataset)


@dataclass
class Outcome:
    """What a step made of its records: those that go on, and those that leave the job with `quarantine` set."""

    records: Records = field(default_factory=list)
    rejected: Records = field(default_factory=list)


async def always(context: JobContext) -> bool:
    """Lets every chunk begin."""
    return True


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step of a chunk. It is committed before the next one begins."""

    name: str
    stage: str
    reads: str
    """Purpose of the table that holds its input; empty for the job's dataset."""

    writes: str
    """Purpose of the table that holds its output."""

    label: str = ""
    """What metrics call it and its stage, if several steps do the same; empty means by their names."""

    run: Callable[[JobContext, Records], Awaitable[Outcome]]
    """Idempotent: it may run again with the same records after a crash."""

    tokens: Callable[[Record], int]
    """Number of tokens that models wrote for a record of the output."""

    measures: Callable[[Record], Mapping[str, int]] = lambda record: {}
    """What else to count of a record of the output, by name; added up in `Counts.measures`."""

    may_begin: Callable[[JobContext], Awaitable[bool]] = always
    """Asked before a chunk begins the step. False only after it has paused the job: the chunk then waits, and asks
    again."""


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A part of a job that works on chunks of records."""

    name: str
    steps: tuple[Step, ...]
    plan: Callable[[JobContext], Awaitable[int]]
    """Stores which record is in which chunk (`ChunkStore.put_chunks`), and returns the number of chunks."""

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages of its steps, in order."""
        return tuple(dict.fromkeys(step.stage for step in self.steps))

    def steps_of(self, stage: str) -> tuple[str, ...]:
        """Names of the steps of a stage, in order."""
        return tuple(step.name for step in self.steps if step.stage == stage)


class JobRun(Protocol):
    """A running job as its program sees it. What these calls return survives restarts; what happens between them
    runs again, so a program decides only by what they returned."""

    async def step(self, name: str, body: Callable[[JobContext], Awaitable[str | None]]) -> str:
        """The result of `body`, which runs once the job is not paused; kept under `name`."""

    async def stage(self, name: str, body: Callable[[JobContext], Awaitable[str | None]]) -> str:
        """A step that is a whole stage: it is timed, and its state shown. Skipped stages return an empty string."""

    async def chunks(self, phase: Phase) -> None:
        """Works on all chunks of a phase. Raises what ended one of them."""

    async def context(self) -> JobContext:
        """The job as it is now."""


class JobProgram(Protocol):
    """What the jobs of a kind do."""

    @property
    def phases(self) -> Sequence[Phase]:
        """The parts of any job of the kind that work on chunks of records; a job has those whose stages it has."""

    async def run(self, run: JobRun) -> None:
        """Works on a job until it is done; raises what ends it."""

    def has_external_work(self, job: Job) -> bool:
        """Whether other services may still be working for the job."""

    async def cancel_external_work(self, context: JobContext) -> None:
        """Ends what other services do for a job that was cancelled or failed."""

    def summarize(self, job: Job, totals: Mapping[str, Counts]) -> None:
        """Sets what only this kind shows in a job, given the counts of each step."""

    def observe_step(self, step: Step, counts: Counts) -> None:
        """Counts, in the kind's own metrics, what a chunk committed in a step."""

    def observe_job(self, job: Job) -> None:
        """Shows, in the kind's own metrics, a job that made progress."""


def phases_of(job: Job, phases: Iterable[Phase]) -> list[Phase]:
    """Those of a kind's phases that a job has."""
    stages = {status.stage for status in job.stages}
    return [phase for phase in phases if stages.issuperset(phase.stages)]


def stage_of(job: Job, stage: str) -> StageStatus:
    """The status of a stage within a job."""
    return next(status for status in job.stages if status.stage == stage)
