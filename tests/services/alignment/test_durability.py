"""Killing and restarting parts of the system while a job works: nothing is lost, nothing is twice."""

import asyncio
from collections import Counter

import pytest

from omnialign.content import text_of
from omnialign.v1 import alignment_service_pb2
from services.alignment.job import ALIGNMENT, LOOP_STAGES
from services.pipeline.chunk_store import ChunkStore
from services.pipeline.job_store import JobStore
from services.pipeline.notifier import Notifier
from services.pipeline.replicas import ReplicaStore
from services.runtime.database import Database
from tests.service_stack import SECONDS, Job, ServiceStack, stage_status

StageStatus = alignment_service_pb2.StageStatus
IDS = [f"prompt-{i:03d}" for i in range(10)]
RPCS = {"sample": "Generate", "critique": "Critique", "refine": "Refine", "verify": "CompareResponses"}


async def restart_in(stack: ServiceStack, rpc: str, **fields: object) -> Job:
    """A job that was interrupted while an RPC was answered, and went on after the restart."""
    entered, release = stack.behaviour.hold(rpc)
    job = await stack.submit(**fields)  # type: ignore[arg-type]
    await asyncio.wait_for(entered.wait(), SECONDS)
    await stack.stop("alignment")
    release.set()
    await stack.start("alignment")
    return await asyncio.wait_for(stack.end_of(job.name), SECONDS)


@pytest.mark.parametrize("name", RPCS)
async def test_a_job_goes_on_after_a_restart_with_each_record_once(stack: ServiceStack, name: str) -> None:
    job = await restart_in(stack, RPCS[name], prompts=10)
    assert job.state == Job.STATE_SUCCEEDED, job.error
    for purpose in LOOP_STAGES:
        assert [r.id for r in await stack.records(job, purpose)] == IDS
        assert stage_status(job, purpose).completed == 10
    assert (job.pairs.tried, job.pairs.kept) == (10, 10)


@pytest.mark.parametrize("rpc", ["train-judge", "train-optimize"])
async def test_a_training_job_is_not_begun_twice(stack: ServiceStack, rpc: str) -> None:
    job = await restart_in(stack, rpc)
    assert job.state == Job.STATE_SUCCEEDED, job.error
    assert len(stack.training.jobs) == 3


async def test_a_restart_recomputes_only_what_was_in_flight(stack: ServiceStack) -> None:
    await restart_in(stack, "Refine", prompts=10)
    asked = Counter(stack.behaviour.asked)
    counts = {i: [asked[rpc, i] for rpc in ("Generate", "Critique", "Refine", "CompareResponses")] for i in IDS}
    # Every chunk was in one step at most, the chunk that was held in Refine; no step before that one is done again.
    assert all(sorted(of_record) in ([1, 1, 1, 1], [1, 1, 1, 2]) for of_record in counts.values()), counts
    assert [1, 1, 2, 1] in counts.values()


async def test_what_a_dead_process_committed_of_a_chunk_is_not_computed_again(stack: ServiceStack) -> None:
    """The process wrote a chunk's critiques, all but one, and died before it could note so."""
    entered, release = stack.behaviour.hold("Critique")
    job = await stack.submit(prompts=4)
    await asyncio.wait_for(entered.wait(), SECONDS)
    await stack.stop("alignment")
    rows = await stack.records(job, "sample")
    for row in rows[:3]:
        row.responses[0].feedback.critique = "Written before the crash."
    await stack.client.append_records(job.name.replace("alignmentJobs", "datasets") + "-critique", rows[:3])
    stack.behaviour.asked.clear()
    release.set()
    await stack.start("alignment")
    job = await stack.end_of(job.name)
    assert job.state == Job.STATE_SUCCEEDED, job.error
    assert [i for rpc, i in stack.behaviour.asked if rpc == "Critique"] == ["prompt-003"]
    critiques = [r.responses[0].feedback.critique for r in await stack.records(job, "critique")]
    assert critiques == ["Written before the crash."] * 3 + ["It could be better."]
    assert stage_status(job, "critique").completed == 4


async def test_a_deterministic_chunk_is_asked_for_whole_again(stack: ServiceStack) -> None:
    entered, release = stack.behaviour.hold("Critique")
    spec = await stack.spec(prompts=4)
    spec.sampling.deterministic = True
    job = await stack.alignment.create_alignment_job("first", spec)
    await asyncio.wait_for(entered.wait(), SECONDS)
    await stack.stop("alignment")
    rows = await stack.records(job, "sample")
    await stack.client.append_records(job.name.replace("alignmentJobs", "datasets") + "-critique", rows[:3])
    stack.behaviour.asked.clear()
    release.set()
    await stack.start("alignment")
    assert (await stack.end_of(job.name)).state == Job.STATE_SUCCEEDED
    assert sorted(i for rpc, i in stack.behaviour.asked if rpc == "Critique") == IDS[:4]
    assert all(r.responses[0].feedback.critique for r in await stack.records(job, "critique"))


async def test_an_interrupted_job_makes_the_pairs_of_an_undisturbed_one(stack: ServiceStack) -> None:
    disturbed = await restart_in(stack, "Refine", prompts=10)
    dataset = disturbed.spec.dataset
    calm = await stack.end_of((await stack.submit("calm", dataset=dataset)).name)
    texts = [
        [[text_of(r.content) for r in pair.responses] for pair in await stack.records(job, "pairs")]
        for job in (disturbed, calm)
    ]
    assert texts[0] == texts[1]


async def test_a_job_waits_for_a_model_service_that_died_and_says_so(stack: ServiceStack) -> None:
    entered, release = stack.behaviour.hold("Critique")
    job = await stack.submit()
    await asyncio.wait_for(entered.wait(), SECONDS)
    await stack.stop("models")
    async with asyncio.timeout(SECONDS):  # the other model services are down too, and may be missed first
        async for event in stack.alignment.watch_alignment_job(job.name):
            if event.message.startswith("Waiting for the critique service"):
                break
    release.set()
    await stack.start("models")
    job = await asyncio.wait_for(stack.end_of(job.name), SECONDS)
    assert job.state == Job.STATE_SUCCEEDED, job.error
    assert stage_status(job, "critique").completed == 10


async def test_a_job_waits_for_the_data_service(stack: ServiceStack) -> None:
    entered, release = stack.behaviour.hold("Refine")
    job = await stack.submit()
    await asyncio.wait_for(entered.wait(), SECONDS)
    await stack.stop("data")
    release.set()
    await stack.until_message(job.name, "Waiting for the data service")
    await stack.start("data")
    job = await asyncio.wait_for(stack.end_of(job.name), SECONDS)
    assert job.state == Job.STATE_SUCCEEDED, job.error
    assert [r.id for r in await stack.records(job, "refine")] == IDS


async def test_a_service_that_stays_away_fails_the_job(stack: ServiceStack) -> None:
    stack.settings["retry_budget_seconds"] = 0.5
    await stack.stop("alignment")
    await stack.start("alignment")
    entered, _ = stack.behaviour.hold("Critique")
    job = await stack.submit(prompts=4)  # one chunk: no other waits in another stage
    await asyncio.wait_for(entered.wait(), SECONDS)
    await stack.stop("models")
    job = await asyncio.wait_for(stack.end_of(job.name), SECONDS)
    assert job.state == Job.STATE_FAILED
    assert b"SERVICE_UNAVAILABLE" in job.error.details[0].value
    assert stage_status(job, "critique").state == StageStatus.STATE_FAILED
    await stack.start("models")


async def test_a_cancellation_goes_on_after_a_restart(stack: ServiceStack) -> None:
    entered, _ = stack.behaviour.hold("Generate")
    job = await stack.submit()
    await asyncio.wait_for(entered.wait(), SECONDS)
    await stack.stop("training")  # so that the cancellation cannot end yet
    await stack.alignment.cancel_alignment_job(job.name)
    await stack.stop("alignment")
    await stack.start("training", "alignment")
    assert (await asyncio.wait_for(stack.end_of(job.name), SECONDS)).state == Job.STATE_CANCELLED


async def test_an_accepted_job_whose_workflow_was_never_queued_is_begun_at_the_next_start(stack: ServiceStack) -> None:
    spec = await stack.spec(prompts=1)
    job = await stack.end_of((await stack.alignment.create_alignment_job("first", spec)).name)
    await stack.stop("alignment")
    database = Database(stack.config().jobs_url)
    store = JobStore(database, ALIGNMENT, Notifier())
    lost = Job(name=job.name.replace("first", "lost"), uid="lost-uid", spec=spec, state=Job.STATE_QUEUED)
    lost.models.base = job.models.base
    for status in job.stages:
        lost.stages.add(stage=status.stage, state=StageStatus.STATE_PENDING)
    _, plan = await store.load(job.uid)
    await store.insert(lost, plan=plan, request_id="", digest="")
    await database.close()
    await stack.start("alignment")
    assert (await asyncio.wait_for(stack.end_of(lost.name), SECONDS)).state == Job.STATE_SUCCEEDED


async def test_the_work_of_a_silent_replica_is_taken_over(stack: ServiceStack) -> None:
    """The first replica stops mid-work and never comes back; another, with its own id, ends the job."""
    stack.settings |= {"heartbeat_seconds": 1.0, "silence_seconds": 1.5}
    entered, release = stack.behaviour.hold("Refine")
    job = await stack.submit(prompts=4)
    await asyncio.wait_for(entered.wait(), SECONDS)
    await stack.stop("alignment")
    release.set()
    stack.settings["executor_id"] = "alignment-1"
    await stack.start("alignment")
    job = await asyncio.wait_for(stack.end_of(job.name), SECONDS)
    assert job.state == Job.STATE_SUCCEEDED, job.error
    assert [r.id for r in await stack.records(job, "refine")] == IDS[:4]


async def test_only_the_chunks_in_flight_are_taken_up_again(stack: ServiceStack) -> None:
    job = await restart_in(stack, "Refine", prompts=10)
    database = Database(stack.config().jobs_url)
    attempts = await ChunkStore(database, ALIGNMENT, Notifier()).attempts(job.uid)
    await database.close()
    found = [[attempts[step, number] for step in LOOP_STAGES] for number in range(3)]
    assert [1, 1, 2, 2] in found, found  # the chunk that was held; begun again, and at the step where it was
    assert all(numbers == sorted(numbers) for numbers in found), found  # no chunk goes back to a step that was done
    assert max(attempts.values()) == 2


async def test_a_transaction_whose_caller_is_cancelled_ends_and_frees_the_database(stack: ServiceStack) -> None:
    job = await stack.end_of((await stack.submit(prompts=1)).name)
    database = Database(stack.config().jobs_url)
    store = JobStore(database, ALIGNMENT, Notifier())
    for _ in range(20):
        callers = [asyncio.create_task(store.change(job.uid, lambda j: "Touched.")) for _ in range(4)]
        await asyncio.sleep(0)
        for caller in callers:
            caller.cancel()
        await asyncio.gather(*callers, return_exceptions=True)
    await asyncio.wait_for(ReplicaStore(database, ALIGNMENT.name).heartbeat("somebody"), SECONDS)
    await database.close()
