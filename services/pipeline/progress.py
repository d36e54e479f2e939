"""Keeps the stages of jobs up to date: counts, times, states, and the events that watchers see.

The numbers are sums over committed chunks, so they are right after any restart. They are written a few times a second
at most, and the chunks never wait for it.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterator, Mapping, Sequence

from sqlalchemy import Connection

from services.pipeline.chunk_store import ChunkStore
from services.pipeline.counts import Counts
from services.pipeline.job_store import JobStore
from services.pipeline.kind import Change, Job, JobKind, JobProgram, Phase, StageStatus, phases_of, stage_of
from services.pipeline.metrics import PipelineMetrics

MIN_PAUSE_SECONDS, MAX_PAUSE_SECONDS = 0.25, 5.0
UPDATES_PER_AGE = 200
"""The pause between two updates is this fraction of the process's age: frequent at first, when people watch."""

logger = logging.getLogger(__name__)


class StageClock:
    """How long a stage of a job was at work: the time during which at least one of its chunks was."""

    def __init__(self) -> None:
        self._active = 0
        self._since = self._spent = 0.0

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Counts the time inside the block. Blocks may overlap."""
        if self._active == 0:
            self._since = time.monotonic()
        self._active += 1
        try:
            yield
        finally:
            self._active -= 1
            if self._active == 0:
                self._spent += time.monotonic() - self._since

    def take_ms(self) -> int:
        """Milliseconds spent since the last call; what is less than one is kept for the next."""
        now = time.monotonic()
        if self._active:  # a block is open: count it up to now, and the rest of it from now on
            self._spent, self._since = self._spent + now - self._since, now
        milliseconds = int(self._spent * 1000)
        self._spent -= milliseconds / 1000
        return milliseconds


class StageUpdater:
    """Changes jobs on behalf of their stages, and keeps the stages' clocks."""

    def __init__(self, store: JobStore, kind: JobKind) -> None:
        self._store, self._kind = store, kind
        self._clocks: dict[tuple[str, str], StageClock] = {}

    def clock(self, uid: str, stage: str) -> StageClock:
        """The clock of one stage of a job."""
        return self._clocks.setdefault((uid, stage), StageClock())

    async def update(self, uid: str, stage: str, change: Change) -> None:
        """Changes a job, and adds the time that the stage took since its last change."""
        spent_ms = self.clock(uid, stage).take_ms()

        def timed(job: Job) -> str | None:
            message = change(job)
            add_elapsed(stage_of(job, stage), spent_ms)
            return message

        await self._store.change(uid, timed)

    async def announce(self, uid: str, service: str, problem: str) -> None:
        """Tells the watchers of a job that it waits for a service; with an empty `problem`, that it no longer does."""

        def change(job: Job) -> str | None:
            if job.state in self._kind.ended:
                return None
            return f"Waiting for the {service} service: {problem}" if problem else f"The {service} service answers."

        await self._store.change(uid, change)

    def forget(self, uid: str) -> None:
        """Drops the clocks of a job that ended."""
        for key in [key for key in self._clocks if key[0] == uid]:
            del self._clocks[key]


class Progress:
    """Writes the progress of the jobs that this process works on; `run` must be running for that."""

    def __init__(
        self,
        program: JobProgram,
        *,
        kind: JobKind,
        jobs: JobStore,
        chunks: ChunkStore,
        updater: StageUpdater,
        metrics: PipelineMetrics,
    ) -> None:
        self._program, self._kind = program, kind
        self._jobs, self._chunks = jobs, chunks
        self._updater, self._metrics = updater, metrics
        self._marked: set[str] = set()
        self._wake = asyncio.Event()
        self._chunk_counts: dict[tuple[str, str], int] = {}
        self._phases: dict[str, list[Phase]] = {}
        self._led: set[str] = set()

    def lead(self, uid: str) -> None:
        """Notes that the job's own workflow runs here: of the replicas that share a job, this one tells the time."""
        self._led.add(uid)

    def mark(self, uid: str) -> None:
        """Notes that a chunk of a job committed something."""
        self._marked.add(uid)
        self._wake.set()

    async def run(self) -> None:
        """Writes the progress of marked jobs, until cancelled."""
        started = time.monotonic()
        while True:
            await self._wake.wait()
            self._wake.clear()
            marked, self._marked = self._marked, set()
            for uid in marked:
                try:
                    await self.flush(uid)
                except Exception:
                    logger.exception("the progress of job %s was not written", uid)
            pause = (time.monotonic() - started) / UPDATES_PER_AGE
            await asyncio.sleep(min(max(pause, MIN_PAUSE_SECONDS), MAX_PAUSE_SECONDS))

    async def flush(self, uid: str) -> Job:
        """Brings the stages of a job up to date with what its chunks committed."""
        phases = await self._phases_of(uid)
        stages = [stage for phase in phases for stage in phase.stages]
        is_led = uid in self._led
        # Clocks run on every replica that works on the job. Adding them all up would count the same minutes several
        # times, so only the replica that runs the job's own workflow adds its time.
        spent_ms = {stage: self._updater.clock(uid, stage).take_ms() if is_led else 0 for stage in stages}

        # The totals are read under the job's lock. Read before it, they could be older than those that another replica
        # writes meanwhile, and a stage that is done would show fewer records for ever.
        def prepare(connection: Connection) -> Change:
            totals = self._chunks.read_totals(connection, uid)
            sizes = {phase.name: self._chunk_count(connection, uid, phase, totals) for phase in phases}
            return lambda job: change(job, totals, sizes)

        def change(job: Job, totals: Mapping[str, Counts], sizes: Mapping[str, int]) -> str | None:
            if job.state in self._kind.ended:
                return None
            before = job.SerializeToString(deterministic=True)
            for phase in phases:
                self._set_stages(job, phase, totals, size=sizes[phase.name])
            for stage in stages:
                add_elapsed(stage_of(job, stage), spent_ms[stage])
            self._program.summarize(job, totals)
            is_changed = job.SerializeToString(deterministic=True) != before
            return self._describe(job) if is_changed else None

        job = await self._jobs.change_by(uid, prepare)
        self._program.observe_job(job)
        if job.state in self._kind.ended:
            self.forget(uid)  # what a chunk marked last may be written after the job's end
        return job

    def count_end(self, job: Job) -> None:
        """Counts a job that this process brought to its end."""
        if job.state in self._kind.ended:
            self._metrics.count_end(job.state)

    def forget(self, uid: str) -> None:
        """Drops what is kept of a job that ended."""
        self._led.discard(uid)
        self._updater.forget(uid)
        self._chunks.recount(uid)
        self._phases.pop(uid, None)
        for key in [key for key in list(self._chunk_counts) if key[0] == uid]:  # a transaction may be adding one
            del self._chunk_counts[key]

    async def _phases_of(self, uid: str) -> list[Phase]:
        """The phases of a job, which never change."""
        if uid not in self._phases:
            job, _ = await self._jobs.load(uid)
            self._phases[uid] = phases_of(job, self._program.phases)
        return self._phases[uid]

    def _chunk_count(self, connection: Connection, uid: str, phase: Phase, totals: Mapping[str, Counts]) -> int:
        """Number of chunks of a phase, which is known once one of them has begun; 0 before (blocking)."""
        key = (uid, phase.name)
        # A plan is stored page by page: what there is of it before its end must not be taken for all of it.
        if key not in self._chunk_counts and any(step.name in totals for step in phase.steps):
            self._chunk_counts[key] = self._chunks.read_chunk_count(connection, uid, phase=phase.name)
        return self._chunk_counts.get(key, 0)

    def _set_stages(self, job: Job, phase: Phase, totals: Mapping[str, Counts], *, size: int) -> None:
        """Sets the stages of a phase from the totals of their steps; `size` is the number of chunks."""
        for stage in phase.stages:
            names = phase.steps_of(stage)
            steps = [totals[name] for name in names if name in totals]
            if steps:
                self._set_stage(stage_of(job, stage), steps, last=totals.get(names[-1], Counts()), size=size)

    def _set_stage(self, status: StageStatus, steps: Sequence[Counts], *, last: Counts, size: int) -> None:
        state = self._kind.stage
        status.completed = last.completed
        status.quarantined = sum(counts.quarantined for counts in steps)
        status.abstained = sum(counts.abstained for counts in steps)
        status.tokens = sum(counts.tokens for counts in steps)
        status.reused = sum(counts.reused for counts in steps)
        if status.state in (state.STATE_PENDING, state.STATE_RUNNING):
            # Before the phase is planned its size is 0, and nothing can be done.
            is_done = size > 0 and last.chunks == size
            status.state = state.STATE_DONE if is_done else state.STATE_RUNNING

    def _describe(self, job: Job) -> str:
        """One sentence on the stages at work, or on the last that is done."""
        running = [s for s in job.stages if s.state == self._kind.stage.STATE_RUNNING]
        if not running:
            done = [s.stage for s in job.stages if s.state == self._kind.stage.STATE_DONE]
            return f"{done[-1]} is done." if done else "Nothing has begun."
        return ", ".join(f"{s.stage} {s.completed + s.quarantined + s.abstained} of {s.total}" for s in running) + "."


def add_elapsed(status: StageStatus, milliseconds: int) -> None:
    """Adds to the time that a stage was at work."""
    status.elapsed.FromMilliseconds(status.elapsed.ToMilliseconds() + milliseconds)
