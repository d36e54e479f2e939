"""What is kept of jobs, chunks and replicas, on SQLite and on PostgreSQL, with several replicas writing at once."""

import asyncio

import pytest

from omnialign.errors import AlreadyExists, FailedPrecondition, Internal, NotFound, Unavailable
from services.alignment.job import ALIGNMENT, Job, Spec
from services.pipeline.chunk_store import ChunkState, StepCommit
from services.pipeline.counts import Counts
from services.pipeline.job_store import JobStore
from services.pipeline.planning import streamed
from services.runtime.database import Database
from tests.services.pipeline.replica_stores import NAME, insert, stores

__all__ = ["stores"]
STEPS = ("sample", "critique")


def says(words: str):
    def change(job: Job) -> str:
        job.models.base = words
        return words

    return change


async def test_a_job_is_found_by_each_of_its_keys(stores):
    first, second = stores
    await insert(first.jobs, "uid-2", NAME + "-2", request_id="asked-once")
    assert (await second.jobs.get(NAME)).uid == "uid-1"
    assert (await second.jobs.load("uid-2"))[1] == Spec(chunk_size=3)
    found = await second.jobs.find_request("projects/default", "asked-once")
    assert found is not None and (found[0].uid, found[1]) == ("uid-2", "d")
    assert [job.uid for _, job in await second.jobs.page("projects/default", before=None, limit=9)] == [
        "uid-2",
        "uid-1",
    ]
    assert await second.jobs.unfinished() == [("uid-1", Job.STATE_QUEUED), ("uid-2", Job.STATE_QUEUED)]
    for call in (second.jobs.get(NAME + "-3"), second.jobs.load("uid-3")):
        with pytest.raises(NotFound):
            await call


async def test_a_name_is_taken_once(stores):
    results = await asyncio.gather(
        *(insert(store.jobs, f"new-{i}", NAME + "-new") for i, store in enumerate(stores)), return_exceptions=True
    )
    (refused,) = (result for result in results if result is not None)
    assert isinstance(refused, AlreadyExists)


async def test_changes_by_replicas_at_once_are_all_there_and_their_events_have_no_gaps(stores):
    await asyncio.gather(
        *(store.jobs.change("uid-1", says(f"{n} {i}")) for i in range(15) for n, store in enumerate(stores))
    )
    events = await stores[0].jobs.events("uid-1", after=0)
    assert [event.sequence for event in events] == list(range(1, 32))
    assert len({event.message for event in events}) == 31
    assert (await stores[1].jobs.get(NAME)).models.base == events[-1].message


async def test_a_change_that_refuses_leaves_no_trace(stores):
    def refuse(job: Job) -> str:
        job.state = Job.STATE_PAUSED
        raise FailedPrecondition("not now", reason="JOB_STATE")

    with pytest.raises(FailedPrecondition):
        await stores[0].jobs.change("uid-1", refuse)
    assert (await stores[0].jobs.change("uid-1", lambda job: None)).state == Job.STATE_QUEUED
    assert len(await stores[0].jobs.events("uid-1", after=0)) == 1


async def test_a_change_whose_committed_answer_was_lost_is_not_made_twice(stores, monkeypatch):
    store = JobStore(stores[0].database.patient(budget_seconds=30), ALIGNMENT, stores[0].notifier)
    write, tries = Database._call, []

    async def lossy(self, *args):
        result = await write(self, *args)
        tries.append(result)
        if len(tries) == 1:
            raise Unavailable("the connection broke after the commit", reason="DATABASE_UNAVAILABLE")
        return result

    monkeypatch.setattr(Database, "_call", lossy)
    job = await store.change("uid-1", says("once"))
    assert job.models.base == "once"
    assert len(tries) == 2
    assert [event.message for event in await store.events("uid-1", after=0)] == ["Accepted.", "once"]


async def test_a_cancelled_change_is_known_to_the_process_when_it_is_committed(stores):
    store = stores[0]
    store.notifier.states["uid-1"] = Job.STATE_QUEUED

    def pause(job: Job) -> str:
        job.state = Job.STATE_PAUSED
        return "Paused."

    caller = asyncio.create_task(store.jobs.change("uid-1", pause))
    while True:
        if await stores[1].jobs.events("uid-1", after=1):  # committed; the caller may not have been told yet
            break
    caller.cancel()
    await asyncio.gather(caller, return_exceptions=True)
    await store.jobs.change("uid-1", lambda job: None)
    assert store.notifier.states["uid-1"] == Job.STATE_PAUSED
    assert store.notifier.num_changes == 1


async def test_a_chunk_taken_up_by_two_replicas_at_once_is_known_to_be_repeated(stores):
    await stores[0].chunks.put_chunks("uid-1", phase="loop", chunks=streamed([["a", "b"], ["c"]]))
    states = await asyncio.gather(
        *(store.chunks.begin_chunks("uid-1", phase="loop", numbers=[0], steps=STEPS) for store in stores)
    )
    assert [state[0].record_ids for state in states] == [("a", "b")] * 2
    assert sorted(state[0].is_repeated for state in states) == [False, True]
    assert await stores[1].chunks.attempts("uid-1") == {("sample", 0): 2, ("critique", 0): 2}


async def test_a_plan_of_many_chunks_is_stored_in_pages_and_a_new_one_replaces_it(stores):
    for count in (200, 130):
        chunks = [[f"{count}-{number}"] for number in range(count)]
        for store in stores:  # the second one again
            planned = await store.chunks.put_chunks("uid-1", phase="loop", chunks=streamed(chunks))
            assert (planned.records, planned.chunks) == (count, count)
    assert await stores[0].chunks.chunk_count("uid-1", phase="loop") == 130
    found = await stores[0].chunks.begin_chunks("uid-1", phase="loop", numbers=[0, 129, 130], steps=STEPS)
    assert {number: state.record_ids for number, state in found.items()} == {0: ("130-0",), 129: ("130-129",)}


async def test_chunks_are_taken_up_together_as_far_as_there_are_any(stores):
    await stores[0].chunks.put_chunks("uid-1", phase="loop", chunks=streamed([["a", "b"], ["c"]]))
    await stores[0].chunks.begin_chunks("uid-1", phase="loop", numbers=[1], steps=STEPS)
    await stores[0].chunks.commit_steps([StepCommit("uid-1", "loop", "sample", 1, Counts(chunks=1))])
    found = await stores[1].chunks.begin_chunks("uid-1", phase="loop", numbers=range(4), steps=STEPS)
    assert found == {
        0: ChunkState(("a", "b"), committed=frozenset(), is_repeated=False),
        1: ChunkState(("c",), committed=frozenset(["sample"]), is_repeated=True),
    }


async def test_steps_that_were_committed_twice_count_once(stores):
    await stores[0].chunks.put_chunks("uid-1", phase="loop", chunks=streamed([["a"], ["b"]]))
    await stores[0].chunks.begin_chunks("uid-1", phase="loop", numbers=range(2), steps=STEPS)
    done = [StepCommit("uid-1", "loop", step, n, Counts(completed=1, chunks=1)) for step in STEPS for n in range(2)]
    await asyncio.gather(
        stores[0].chunks.commit_steps(done),
        stores[1].chunks.commit_steps(done[::-1]),
        stores[0].chunks.commit_steps(done[1:]),
    )
    totals = await stores[1].chunks.totals("uid-1")
    assert {step: (counts.completed, counts.chunks) for step, counts in totals.items()} == dict.fromkeys(STEPS, (2, 2))
    assert await stores[1].chunks.committed_count("uid-1", phase="loop", step="critique") == 2
    states = await stores[1].chunks.begin_chunks("uid-1", phase="loop", numbers=[1], steps=STEPS)
    assert states[1].committed == set(STEPS)


async def test_a_look_at_the_totals_reads_only_what_was_open_at_the_last_one(stores, monkeypatch):
    def done(*numbers: int, completed: int = 1) -> list[StepCommit]:
        return [StepCommit("uid-1", "loop", "sample", n, Counts(chunks=1, completed=completed)) for n in numbers]

    async def look() -> tuple[int, int]:
        read.clear()
        counts = (await chunks.totals("uid-1"))["sample"]
        return counts.completed, len(read)

    chunks, read, from_json = stores[1].chunks, list[object](), Counts.from_json
    await chunks.put_chunks("uid-1", phase="loop", chunks=streamed([["a"]] * 50))
    await chunks.begin_chunks("uid-1", phase="loop", numbers=range(50), steps=["sample"])
    monkeypatch.setattr(Counts, "from_json", lambda values: read.append(values) or from_json(values))
    await chunks.commit_steps(done(*range(40), 45))
    assert await look() == (41, 41)
    await chunks.commit_steps(done(41))
    assert await look() == (42, 2)
    await stores[0].chunks.commit_steps(done(3, completed=5))  # by a replica that was taken for dead
    await chunks.commit_steps(done(40))
    assert await look() == (43, 3)
    chunks.recount("uid-1")
    assert await look() == (47, 43)
    assert await chunks.committed_count("uid-1", phase="loop", step="sample") == 43


async def test_the_first_failure_of_a_phase_is_told(stores):
    await stores[0].chunks.put_chunks("uid-1", phase="loop", chunks=streamed([["a"], ["b"]]))
    assert await stores[1].chunks.failure("uid-1", phase="loop") is None
    for number in (1, 0):
        error = Internal("broken", reason="CHUNK_FAILED", metadata={"number": str(number)})
        await stores[0].chunks.put_failure("uid-1", phase="loop", number=number, error=error)
    found = await stores[1].chunks.failure("uid-1", phase="loop")
    assert found is not None and found.metadata == {"number": "0"}


@pytest.mark.parametrize("size", [1, 256 * 1024, 256 * 1024 + 1, 1_000_000])
async def test_a_report_is_read_back_piece_by_piece_and_replaced_whole(stores, size):
    await stores[0].jobs.put_report("uid-1", {"html": b"h" * 2_000_000, "json": b"old"})
    page = bytes(i % 251 for i in range(size))
    await stores[0].jobs.put_report("uid-1", {"html": page, "json": b"{}"})
    pieces = [piece async for piece in stores[1].jobs.report("uid-1", report_format="html")]
    assert b"".join(pieces) == page
    assert max(map(len, pieces)) <= 256 * 1024
    assert [piece async for piece in stores[1].jobs.report("uid-1", report_format="pdf")] == []


async def test_silence_is_measured_from_the_last_heartbeat(stores):
    await stores[0].replicas.heartbeat("alignment-a")
    await stores[0].replicas.heartbeat("alignment-b", at_ms=0)
    assert await stores[1].replicas.stale(seconds=60) == ["alignment-b"]
    assert set(await stores[1].replicas.stale(seconds=-1)) == {"alignment-a", "alignment-b"}
    await stores[1].replicas.remove("alignment-b")
    assert await stores[1].replicas.stale(seconds=60) == []


async def test_starts_without_progress_are_counted_and_an_event_or_a_good_end_begins_anew(stores):
    first, second = stores

    def run(job: Job) -> str:
        job.state = Job.STATE_RUNNING
        return "Started."

    assert await first.jobs.count_start("uid-1") == 0  # it waits: nobody works on it
    await first.jobs.change("uid-1", run)
    assert [await store.jobs.count_start("uid-1") for store in (first, second, first)] == [1, 2, 3]
    await first.jobs.change("uid-1", says("progress"))
    assert await second.jobs.count_start("uid-1") == 1
    await second.jobs.forgive_starts("uid-1")
    assert await second.jobs.count_start("uid-1") == 1


async def test_a_deleted_job_leaves_nothing_behind_and_others_alone(stores):
    store, other = stores
    await insert(store.jobs, "uid-2", NAME + "-2")
    for uid in ("uid-1", "uid-2"):
        await store.chunks.put_chunks(uid, phase="sample", chunks=streamed([["a"]]))
        await store.chunks.begin_chunks(uid, phase="sample", numbers=[0], steps=["sample"])
        await store.jobs.put_report(uid, {"json": b"{}"})
    await store.jobs.delete("uid-1")
    with pytest.raises(NotFound):
        await other.jobs.get(NAME)
    assert await other.jobs.events("uid-1", after=0) == []
    assert await other.chunks.chunk_count("uid-1", phase="sample") == 0
    assert [job.uid for _, job in await other.jobs.page("projects/default", before=None, limit=9)] == ["uid-2"]
    assert [piece async for piece in other.jobs.report("uid-2", report_format="json")] == [b"{}"]
    await insert(store.jobs, "uid-3", NAME)
