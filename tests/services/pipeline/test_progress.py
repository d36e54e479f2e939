"""Progress that several replicas write, and what is kept of a job while it runs."""

import asyncio
from types import SimpleNamespace

import pytest

from omnialign.errors import NotFound
from services.alignment.job import ALIGNMENT, Job
from services.pipeline.chunk_store import StepCommit
from services.pipeline.counts import Counts
from services.pipeline.kind import Phase, Step
from services.pipeline.notifier import Notifier
from services.pipeline.planning import streamed
from services.pipeline.progress import Progress, StageUpdater
from services.pipeline.runner import JobGate, JobRunner
from tests.services.pipeline.replica_stores import Replica, stores

__all__ = ["stores"]


class OneStep:
    """A program of one phase with one step, as far as its progress is concerned."""

    def __init__(self) -> None:
        step = Step(name="sample", stage="sample", reads="", writes="sample", run=None, tokens=lambda record: 0)
        self.phases = (Phase(name="sample", steps=(step,), plan=None),)

    def summarize(self, job, totals) -> None:
        job.pairs.tried = totals["sample"].completed if totals else 0

    def observe_job(self, job) -> None:
        pass


def progress_of(store: Replica) -> Progress:
    return Progress(
        OneStep(),
        kind=ALIGNMENT,
        jobs=store.jobs,
        chunks=store.chunks,
        updater=StageUpdater(store.jobs, ALIGNMENT),
        metrics=None,
    )


async def test_progress_that_a_slow_replica_writes_late_does_not_replace_what_is_newer(stores, monkeypatch):
    def begin(job: Job) -> str:
        job.state = Job.STATE_RUNNING
        job.stages.add(stage="sample", total=6, state=ALIGNMENT.stage.STATE_PENDING)
        return "began"

    async def finish(store: Replica, number: int) -> None:
        await store.chunks.begin_chunks("uid-1", phase="sample", numbers=[number], steps=["sample"])
        await store.chunks.commit_steps([StepCommit("uid-1", "sample", "sample", number, Counts(1, 3))])

    async def write_late(*args, **kwargs):
        entered.set()
        await release.wait()
        return await write(*args, **kwargs)

    (slow, fast), entered, release = stores, asyncio.Event(), asyncio.Event()
    await slow.jobs.change("uid-1", begin)
    await slow.chunks.put_chunks("uid-1", phase="sample", chunks=streamed([["a", "b", "c"], ["d", "e", "f"]]))
    await finish(slow, 0)
    write = slow.database.write
    monkeypatch.setattr(slow.database, "write", write_late)
    late = asyncio.create_task(progress_of(slow).flush("uid-1"))
    await entered.wait()
    await finish(fast, 1)
    await progress_of(fast).flush("uid-1")
    release.set()
    job = await late
    assert (job.stages[0].completed, job.pairs.tried) == (6, 6)
    assert job.stages[0].state == ALIGNMENT.stage.STATE_DONE


async def test_a_stage_is_done_with_its_last_chunk_though_progress_was_written_while_it_was_planned(stores):
    def begin(job: Job) -> str:
        job.state = Job.STATE_RUNNING
        job.stages.add(stage="sample", total=200, state=ALIGNMENT.stage.STATE_PENDING)
        return "began"

    async def chunks():
        for number in range(200):
            if number in (70, 150):  # some pages are stored, and others are not
                await progress.flush("uid-1")
            yield [str(number)]

    store, progress = stores[0], progress_of(stores[0])
    await store.jobs.change("uid-1", begin)
    await store.chunks.put_chunks("uid-1", phase="sample", chunks=chunks())
    for numbers, state in ((range(64), "RUNNING"), (range(64, 199), "RUNNING"), ([199], "DONE")):
        await store.chunks.begin_chunks("uid-1", phase="sample", numbers=numbers, steps=["sample"])
        await store.chunks.commit_steps([StepCommit("uid-1", "sample", "sample", n, Counts(1, 1)) for n in numbers])
        job = await progress.flush("uid-1")
        assert job.stages[0].state == getattr(ALIGNMENT.stage, f"STATE_{state}")
    said = [event.message for event in await store.jobs.events("uid-1", after=0)]
    assert said[-2:] == ["sample 199 of 200.", "sample is done."]


async def test_the_workflow_of_a_job_that_was_refused_after_it_was_queued_ends_without_a_word(stores, caplog):
    store = stores[0]
    await store.jobs.delete("uid-1")
    for call in (store.jobs.state, store.jobs.load, lambda uid: store.jobs.change(uid, lambda job: "changed")):
        with pytest.raises(NotFound, match="uid-1"):
            await call("uid-1")
    notifier = Notifier()
    gate = JobGate(ALIGNMENT, jobs=store.jobs, clients=None, notifier=notifier)
    runner = JobRunner(
        OneStep(),
        kind=ALIGNMENT,
        engine=None,
        gate=gate,
        jobs=store.jobs,
        chunks=store.chunks,
        worker=SimpleNamespace(forget=lambda uid: None),
        updater=None,
        progress=progress_of(store),
        notifier=notifier,
        uses=None,
    )
    await runner.run_job("uid-1")
    assert not caplog.records


async def test_progress_that_is_written_after_the_end_of_a_job_keeps_nothing_of_it(stores):
    def begin(job: Job) -> str:
        job.state = Job.STATE_RUNNING
        job.stages.add(stage="sample", total=1, state=ALIGNMENT.stage.STATE_PENDING)
        return "began"

    def end(job: Job) -> str:
        job.state = Job.STATE_SUCCEEDED
        return "ended"

    def kept() -> dict[str, object]:
        mine = (progress, progress._updater, store.chunks._totals)
        found = {name: value for one in mine for name, value in vars(one).items() if isinstance(value, dict | set)}
        return {name: value for name, value in found.items() if "uid-1" in str(list(value))}

    store = stores[0]
    progress = progress_of(store)
    await store.jobs.change("uid-1", begin)
    await store.chunks.put_chunks("uid-1", phase="sample", chunks=streamed([["a"]]))
    await store.chunks.begin_chunks("uid-1", phase="sample", numbers=[0], steps=["sample"])
    await store.chunks.commit_steps([StepCommit("uid-1", "sample", "sample", 0, Counts(1, 1))])
    progress.lead("uid-1")
    await progress.flush("uid-1")
    assert len(kept()) >= 3
    await store.jobs.change("uid-1", end)
    progress.forget("uid-1")
    await progress.flush("uid-1")
    assert kept() == {}
