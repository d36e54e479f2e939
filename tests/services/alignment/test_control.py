"""Pausing, resuming, cancelling and watching jobs that work."""

import asyncio

import grpc
import pytest

from omnialign.errors import FailedPrecondition, NotFound
from omnialign.v1 import alignment_service_pb2, alignment_service_pb2_grpc, training_service_pb2
from tests.service_stack import SECONDS, Job, ServiceStack, stage_status

StageStatus = alignment_service_pb2.StageStatus
TrainingJob = training_service_pb2.TrainingJob
HELD = {
    "feedback_modeling": "train-judge",
    "sample": "Generate",
    "critique": "Critique",
    "refine": "Refine",
    "verify": "CompareResponses",
    "optimize": "train-optimize",
}


@pytest.mark.parametrize("name", HELD)
async def test_a_job_can_be_cancelled_in_every_stage(stack: ServiceStack, name: str) -> None:
    entered, _ = stack.behaviour.hold(HELD[name])
    job = await stack.submit()
    await asyncio.wait_for(entered.wait(), SECONDS)
    assert (await stack.alignment.cancel_alignment_job(job.name)).state == Job.STATE_CANCELLING
    job = await asyncio.wait_for(stack.end_of(job.name), SECONDS)
    assert job.state == Job.STATE_CANCELLED
    assert not job.HasField("error")
    ended = (TrainingJob.STATE_SUCCEEDED, TrainingJob.STATE_CANCELLED)
    assert all(training.state in ended for training in stack.training.jobs.values())


async def test_a_job_can_be_cancelled_while_it_is_evaluated(stack: ServiceStack) -> None:
    entered, release = stack.behaviour.hold("CompareResponses")
    job = await stack.submit()
    await asyncio.wait_for(entered.wait(), SECONDS)
    entered.clear()
    release.set()
    await stack.until(job.name, lambda j: stage_status(j, "verify").state == StageStatus.STATE_DONE)
    release.clear()
    await asyncio.wait_for(entered.wait(), SECONDS)
    await stack.alignment.cancel_alignment_job(job.name)
    assert (await asyncio.wait_for(stack.end_of(job.name), SECONDS)).state == Job.STATE_CANCELLED


async def test_cancelling_an_ended_job_changes_nothing(stack: ServiceStack) -> None:
    job = await stack.end_of((await stack.submit(prompts=1)).name)
    assert await stack.alignment.cancel_alignment_job(job.name) == job


async def test_a_job_is_deleted_once_it_has_ended_and_its_tables_stay(stack: ServiceStack) -> None:
    entered, _ = stack.behaviour.hold("Generate")
    job = await stack.submit(prompts=1)
    await asyncio.wait_for(entered.wait(), SECONDS)
    with pytest.raises(FailedPrecondition) as caught:
        await stack.alignment.delete_alignment_job(job.name)
    assert caught.value.reason == "JOB_STATE"
    await stack.alignment.cancel_alignment_job(job.name)
    await asyncio.wait_for(stack.end_of(job.name), SECONDS)
    await stack.alignment.delete_alignment_job(job.name)
    with pytest.raises(NotFound):
        await stack.alignment.get_alignment_job(job.name)
    tables = [dataset.labels["alignment_job"] async for dataset in stack.client.list_datasets() if dataset.labels]
    assert tables and set(tables) == {job.name}


async def test_a_paused_job_begins_nothing_new_until_it_is_resumed(stack: ServiceStack) -> None:
    stack.settings["chunks_per_job"] = 1
    await stack.stop("alignment")
    await stack.start("alignment")
    entered, release = stack.behaviour.hold("Critique")
    job = await stack.submit(prompts=8)
    await asyncio.wait_for(entered.wait(), SECONDS)
    assert (await stack.alignment.pause_alignment_job(job.name)).state == Job.STATE_PAUSED
    release.set()
    paused = await stack.until(job.name, lambda j: stage_status(j, "critique").completed == 4)
    assert paused.state == Job.STATE_PAUSED
    asked = list(stack.behaviour.asked)
    await asyncio.sleep(0.3)  # time in which something new would have begun
    assert stack.behaviour.asked == asked
    assert (await stack.alignment.resume_alignment_job(job.name)).state == Job.STATE_RUNNING
    assert (await stack.end_of(job.name)).state == Job.STATE_SUCCEEDED


async def test_a_pause_survives_a_restart(stack: ServiceStack) -> None:
    entered, release = stack.behaviour.hold("Critique")
    job = await stack.submit(prompts=4)
    await asyncio.wait_for(entered.wait(), SECONDS)
    await stack.alignment.pause_alignment_job(job.name)
    release.set()
    await stack.stop("alignment")
    await stack.start("alignment")
    assert (await stack.alignment.get_alignment_job(job.name)).state == Job.STATE_PAUSED
    await stack.alignment.resume_alignment_job(job.name)
    job = await stack.end_of(job.name)
    assert job.state == Job.STATE_SUCCEEDED
    assert stage_status(job, "verify").completed == 4


async def test_a_paused_job_can_be_cancelled(stack: ServiceStack) -> None:
    entered, release = stack.behaviour.hold("Generate")
    job = await stack.submit()
    await asyncio.wait_for(entered.wait(), SECONDS)
    await stack.alignment.pause_alignment_job(job.name)
    release.set()
    await stack.alignment.cancel_alignment_job(job.name)
    assert (await asyncio.wait_for(stack.end_of(job.name), SECONDS)).state == Job.STATE_CANCELLED


async def test_a_paused_job_leaves_room_for_others(stack: ServiceStack) -> None:
    stack.settings["chunks_per_job"] = 1
    await stack.stop("alignment")
    await stack.start("alignment")
    dataset = await stack.make_dataset(prompts=8)
    entered, release = stack.behaviour.hold("Critique")
    first = await stack.submit("first", dataset=dataset)
    await asyncio.wait_for(entered.wait(), SECONDS)
    await stack.alignment.pause_alignment_job(first.name)
    release.set()
    second = await stack.submit("second", dataset=dataset)
    assert (await asyncio.wait_for(stack.end_of(second.name), SECONDS)).state == Job.STATE_SUCCEEDED


async def test_an_ended_job_can_be_neither_paused_nor_resumed(stack: ServiceStack) -> None:
    job = await stack.end_of((await stack.submit(prompts=1)).name)
    for call in (stack.alignment.pause_alignment_job, stack.alignment.resume_alignment_job):
        with pytest.raises(FailedPrecondition) as caught:
            await call(job.name)
        assert caught.value.reason == "JOB_STATE"


async def test_events_are_numbered_without_gaps_and_a_watch_goes_on_where_it_ended(stack: ServiceStack) -> None:
    job = await stack.submit(prompts=8)
    first = []
    async for event in stack.alignment.watch_alignment_job(job.name):
        first.append(event)
        if len(first) == 3:
            break
    rest = [event async for event in stack.alignment.watch_alignment_job(job.name, resume_after=3)]
    assert [event.sequence for event in first + rest] == list(range(1, len(first + rest) + 1))
    assert rest[-1].alignment_job.state == Job.STATE_SUCCEEDED
    request = alignment_service_pb2.WatchAlignmentJobRequest(name=job.name, resume_after=rest[-1].sequence)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{stack.ports['alignment']}") as channel:
        stub = alignment_service_pb2_grpc.AlignmentServiceStub(channel)
        assert [event async for event in stub.WatchAlignmentJob(request, timeout=SECONDS)] == []


async def test_watching_an_unknown_job_is_not_found(stack: ServiceStack) -> None:
    with pytest.raises(NotFound):
        async for _ in stack.alignment.watch_alignment_job("projects/default/alignmentJobs/nobody"):
            pass


async def test_a_watch_survives_a_restart_of_the_service(stack: ServiceStack) -> None:
    entered, release = stack.behaviour.hold("Refine")
    job = await stack.submit(prompts=4)
    watching = asyncio.create_task(stack.end_of(job.name))
    await asyncio.wait_for(entered.wait(), SECONDS)
    await stack.stop("alignment")
    await stack.start("alignment")
    release.set()
    assert (await asyncio.wait_for(watching, SECONDS)).state == Job.STATE_SUCCEEDED
