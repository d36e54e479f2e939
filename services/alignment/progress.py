"""Keeps the stages of a job up to date: counts, times, states, and the events that watchers see.

The numbers are sums over the committed chunks, so they are right after any restart. They are written a few times a
second at most: the chunks themselves never wait for it.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterator

from omnialign.errors import FailedPrecondition
from omnialign.v1 import alignment_service_pb2
from services.alignment import tables
from services.alignment.counts import Counts
from services.alignment.job import stage_of
from services.alignment.metrics import Metrics
from services.alignment.store import ENDED, Job, Store

StageStatus = alignment_service_pb2.StageStatus

LOOP, EVALUATE = "loop", "evaluate"
SHORTEST_SECONDS, LONGEST_SECONDS = 0.25, 5.0
STEPS_OF_STAGE = {stage: (stage,) for stage in tables.LOOP_STAGES} | {EVALUATE: tables.EVALUATION_STEPS}
PHASE_OF_STAGE = dict.fromkeys(tables.LOOP_STAGES, LOOP) | {EVALUATE: EVALUATE}


class Clock:
    """How long a stage of a job was at work: the time in which at least one of its chunks was."""

    def __init__(self) -> None:
        self._active = 0
        self._since = self._spent = 0.0

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Counts the time inside the block."""
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
        """Time spent since the last call, in milliseconds."""
        now = time.monotonic()
        if self._active:
            self._spent, self._since = self._spent + now - self._since, now
        milliseconds = int(self._spent * 1000)
        self._spent -= milliseconds / 1000
        return milliseconds


class Progress:
    """Follows the jobs that this process works on. `run` must be running for changes to be written."""

    def __init__(self, store: Store, metrics: Metrics) -> None:
        self._store = store
        self._metrics = metrics
        self._clocks: dict[tuple[str, str], Clock] = {}
        self._marked: set[str] = set()
        self._wake = asyncio.Event()
        self._chunk_counts: dict[tuple[str, str], int] = {}
        self._led: set[str] = set()

    def clock(self, uid: str, stage: str) -> Clock:
        """The clock of one stage of a job."""
        return self._clocks.setdefault((uid, stage), Clock())

    def lead(self, uid: str) -> None:
        """Notes that the job's own workflow runs here: of the replicas that share a job, this one tells the time."""
        self._led.add(uid)

    def mark(self, uid: str) -> None:
        """Notes that chunks of a job committed something."""
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
                    logging.getLogger(__name__).exception("progress of job %s was not written", uid)
            pause = (time.monotonic() - started) / 200
            await asyncio.sleep(min(max(pause, SHORTEST_SECONDS), LONGEST_SECONDS))

    async def flush(self, uid: str) -> Job:
        """Brings the job's stages up to date with what its chunks committed."""
        totals = await self._store.totals(uid)
        phases = {phase: await self._chunks_of(uid, phase) for phase in (LOOP, EVALUATE)}
        sizes = {stage: phases[phase] for stage, phase in PHASE_OF_STAGE.items()}
        spent = {stage: self.clock(uid, stage).take_ms() if uid in self._led else 0 for stage in sizes}

        def change(job: Job) -> str | None:
            before = job.SerializeToString(deterministic=True)
            if job.state in ENDED:
                return None
            update(job, totals, sizes=sizes, spent_ms=spent)
            changed = job.SerializeToString(deterministic=True) != before
            return describe(job) if changed else None

        job = await self._store.change(uid, change)
        self._metrics.show_pairs(job.pairs)
        return job

    def count_end(self, job: Job) -> None:
        """Counts a job that this process brought to its end."""
        if job.state in ENDED:
            self._metrics.ended(job.state)

    def forget(self, uid: str) -> None:
        """Drops what is kept of a job that ended."""
        self._led.discard(uid)
        for key in [key for key in self._clocks if key[0] == uid]:
            del self._clocks[key]
        for key in [key for key in self._chunk_counts if key[0] == uid]:
            del self._chunk_counts[key]

    async def _chunks_of(self, uid: str, phase: str) -> int:
        count = self._chunk_counts.get((uid, phase), 0)
        if not count:
            count = self._chunk_counts[uid, phase] = await self._store.chunk_count(uid, phase=phase)
        return count


def update(job: Job, totals: dict[str, Counts], *, sizes: dict[str, int], spent_ms: dict[str, int]) -> None:
    """Sets the stages that work by chunks from their totals; `sizes` is the number of chunks of each stage."""
    expected = stage_of(job, "sample").total
    for stage in (*tables.LOOP_STAGES, EVALUATE):
        status = stage_of(job, stage)
        steps = [totals[step] for step in STEPS_OF_STAGE[stage] if step in totals]
        if steps:
            _set(status, steps, last=totals.get(STEPS_OF_STAGE[stage][-1], Counts()), size=sizes[stage])
        status.elapsed.FromMilliseconds(status.elapsed.ToMilliseconds() + spent_ms[stage])
        if stage != EVALUATE and expected:
            status.total = expected
            expected -= status.quarantined + (status.abstained if stage == tables.CRITIQUE else 0)
    _set_pairs(job, totals)
    _set_rates(stage_of(job, EVALUATE), totals.get(tables.EVALUATION, Counts()))


def _set(status: StageStatus, steps: list[Counts], *, last: Counts, size: int) -> None:
    status.completed = last.completed
    status.quarantined = sum(counts.quarantined for counts in steps)
    status.abstained = sum(counts.abstained for counts in steps)
    status.tokens = sum(counts.tokens for counts in steps)
    if status.state in (StageStatus.STATE_PENDING, StageStatus.STATE_RUNNING):
        done = size > 0 and last.chunks == size
        status.state = StageStatus.STATE_DONE if done else StageStatus.STATE_RUNNING
        if done and status.stage == EVALUATE:
            status.total = status.completed + status.quarantined + status.abstained


def _set_pairs(job: Job, totals: dict[str, Counts]) -> None:
    verify, critique = totals.get(tables.VERIFY), totals.get(tables.CRITIQUE)
    if verify is None:
        return
    pairs = job.pairs
    pairs.kept, pairs.tied, pairs.lost = verify.kept, verify.tied, verify.lost
    pairs.abstained = verify.abstained + (critique.abstained if critique else 0)
    pairs.tried = pairs.kept + pairs.tied + pairs.lost + pairs.abstained


def _set_rates(status: StageStatus, counts: Counts) -> None:
    compared = counts.kept + counts.tied + counts.lost + counts.abstained
    if compared:
        status.metrics["win_rate"] = counts.kept / compared
        status.metrics["tie_rate"] = counts.tied / compared
        status.metrics["loss_rate"] = counts.lost / compared
        status.metrics["abstain_rate"] = counts.abstained / compared
    if counts.checked:
        status.metrics["correct_base"] = counts.correct_base / counts.checked
        status.metrics["correct_aligned"] = counts.correct_aligned / counts.checked


def describe(job: Job) -> str:
    """One sentence on the stages at work."""
    running = [s for s in job.stages if s.state == StageStatus.STATE_RUNNING]
    if not running:
        return "Progress."
    return ", ".join(f"{s.stage} {s.completed + s.quarantined + s.abstained} of {s.total}" for s in running) + "."


def check_quarantine(job: Job, totals: dict[str, Counts], *, limit: float) -> None:
    """Raises FailedPrecondition (`QUARANTINE_LIMIT`) when too large a share of a stage's records is quarantined."""
    for stage, steps in STEPS_OF_STAGE.items():
        status = stage_of(job, stage)
        if status.total and status.quarantined > limit * status.total:
            merged = Counts()
            for step in steps:
                merged.add(totals.get(step, Counts()))
            raise _too_many(status, merged.reasons, limit=limit)


def _too_many(status: StageStatus, reasons: dict[str, int], *, limit: float) -> FailedPrecondition:
    reason = max(sorted(reasons), key=lambda name: reasons[name], default="UNKNOWN")
    message = (
        f"{status.quarantined} of {status.total} records were quarantined in '{status.stage}', more than the share of "
        f"{limit:g} that the job allows; most often {reason} ({reasons.get(reason, 0)} times)"
    )
    metadata = {
        "stage": status.stage,
        "quarantined": str(status.quarantined),
        "total": str(status.total),
        "limit": f"{limit:g}",
        "most_common_reason": reason,
    }
    return FailedPrecondition(message, reason="QUARANTINE_LIMIT", metadata=metadata)
