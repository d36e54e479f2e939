"""A job kind that the pipeline has never heard of registers, and gets all that alignment jobs have."""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest
import sqlalchemy as sa

from omnialign.content import content, text_of
from omnialign.errors import AlreadyExists, FailedPrecondition, NotFound, from_status
from omnialign.v1 import record_pb2
from services.pipeline.runner import MAX_STARTS
from services.pipeline.schema import tables
from services.pipeline.service import Pipeline, open_pipeline
from services.runtime.config import ServerConfig
from services.runtime.database import Database
from services.runtime.server import Server
from tests.service_stack import SECONDS, ServiceStack
from tests.services.pipeline.census import (
    CENSUS,
    STAGES,
    CensusConfig,
    CensusProgram,
    CreateRequest,
    Job,
    Plan,
    Stage,
)

NUM_PROMPTS = 20


class CensusService:
    """A process of the census service, as far as a test needs it."""

    def __init__(self, pipeline: Pipeline, program: CensusProgram) -> None:
        self.pipeline, self.program = pipeline, program

    async def submit(self, dataset: str, *, census_id: str = "census", **plan: Any) -> Any:
        request = CreateRequest(parent="projects/default", request_id=str(uuid.uuid4()), census_id=census_id)
        request.plan.CopyFrom(Plan(dataset=dataset, chunk_size=4, **plan))
        job = Job(uid=str(uuid.uuid4()), name=f"projects/default/censuses/{census_id}", state=Job.STATE_QUEUED)
        for stage in STAGES:
            job.stages.add(stage=stage, state=Stage.STATE_PENDING)
        return await self.pipeline.jobs.submit(request, job, request.plan)

    async def end_of(self, job: Any) -> Any:
        async for event in self.pipeline.jobs.watch(job.name, resume_after=0):
            job = event.job
        return job


@contextlib.asynccontextmanager
async def census_service(
    stack: ServiceStack, *, is_held: bool = False, **settings: Any
) -> AsyncIterator[CensusService]:
    """The census service, in this process and on the workflow engine of the stack's alignment service.

    One that `is_held` makes no progress before it is released. `settings` are those of its pipeline.
    """
    programs: list[CensusProgram] = []

    def program(tools: Any) -> CensusProgram:
        programs.append(CensusProgram(tools))
        if is_held:
            programs[0].release.clear()
        return programs[0]

    alignment = stack.config()
    config = CensusConfig(
        root=stack.root / "census",
        workflow_database_url=alignment.workflows_url,
        executor_id=alignment.executor_id,
        data_address=alignment.data_address,
        **{"queue_polling_seconds": 0.1, **settings},
    )
    server = Server(ServerConfig(port=0, reflection=False), name="census")
    async with open_pipeline(server, config, kind=CENSUS, program=program, full_name="census.Census") as pipeline:
        await server.start()
        try:
            yield CensusService(pipeline, programs[0])
        finally:
            await server.stop(0)


@pytest.fixture
async def dataset(stack: ServiceStack) -> str:
    made = await stack.client.create_dataset("letters")
    records = [
        record_pb2.Record(id=f"r{i:02d}", subtask="t2t", prompt=content("x" * (i + 1))) for i in range(NUM_PROMPTS)
    ]
    await stack.client.append_records(made.name, records)
    return (await stack.client.commit_version(made.name)).name


LAST_SEQUENCE = tables("census").jobs.c.last_sequence


@contextlib.asynccontextmanager
async def database_of(stack: ServiceStack) -> AsyncIterator[Database]:
    """The census service's database, while no process uses it."""
    database = Database(f"sqlite:///{stack.root / 'census' / 'jobs.db'}")
    try:
        yield database
    finally:
        await database.close()


async def rows(stack: ServiceStack, purpose: str) -> list[record_pb2.Record]:
    name = f"projects/default/datasets/census-{purpose}"
    return [record async for record in stack.client.stream_records(name)]


async def test_an_id_that_a_job_of_another_kind_has_is_refused_at_once(stack: ServiceStack, dataset: str) -> None:
    first = await stack.submit("twin")
    async with census_service(stack) as service:
        with pytest.raises(AlreadyExists) as caught:
            await service.submit(dataset, census_id="twin")
        assert caught.value.reason == "JOB_ID_TAKEN"
        assert "the id 'twin' is taken" in str(caught.value)
        with pytest.raises(NotFound):  # nothing of it is left
            await service.pipeline.jobs.get("projects/default/censuses/twin")
        assert (await service.end_of(await service.submit(dataset, census_id="other"))).state == Job.STATE_SUCCEEDED
    assert (await stack.end_of(first.name)).state == first.STATE_SUCCEEDED


async def test_it_runs_beside_another_kind_in_one_process(stack: ServiceStack, dataset: str) -> None:
    alignment_job = await stack.submit(prompts=4)
    async with census_service(stack) as census:
        job = await asyncio.wait_for(census.end_of(await census.submit(dataset)), SECONDS)
        assert job.state == Job.STATE_SUCCEEDED, job.error
        assert [stage.state for stage in job.stages] == [Stage.STATE_DONE] * 2
        assert job.stages[0].completed == job.stages[0].total == NUM_PROMPTS
        assert job.num_letters == NUM_PROMPTS * (NUM_PROMPTS + 1) // 2
        aligned = await asyncio.wait_for(stack.end_of(alignment_job.name), SECONDS)
        assert aligned.state == type(aligned).STATE_SUCCEEDED, aligned.error
    assert {r.id: int(r.labels["letters"]) for r in await rows(stack, "check")} == {
        f"r{i:02d}": i + 1 for i in range(NUM_PROMPTS)
    }


async def test_chunks_do_not_wait_for_the_queue_to_be_polled(stack: ServiceStack, dataset: str) -> None:
    """Neither those that a process queues, nor those for which a chunk that ended leaves a place."""
    async with census_service(stack, queue_polling_seconds=2 * SECONDS, chunks_per_job=2) as census:
        job = await asyncio.wait_for(census.end_of(await census.submit(dataset)), SECONDS)
    assert job.state == Job.STATE_SUCCEEDED, job.error
    assert job.stages[0].completed == NUM_PROMPTS


async def test_its_jobs_go_on_after_a_restart_with_each_record_once(stack: ServiceStack, dataset: str) -> None:
    async with census_service(stack, is_held=True) as census:
        job = await census.submit(dataset)
        await asyncio.wait_for(census.program.entered.wait(), SECONDS)
    async with census_service(stack) as census:
        job = await asyncio.wait_for(census.end_of(job), SECONDS)
        assert job.state == Job.STATE_SUCCEEDED, job.error
    assert [record.id for record in await rows(stack, "check")] == [f"r{i:02d}" for i in range(NUM_PROMPTS)]


async def test_a_job_that_ends_its_process_again_and_again_is_given_up(stack: ServiceStack, dataset: str) -> None:
    """What a process that is killed leaves behind: a start that nobody forgave. A paused job is not blamed."""
    async with census_service(stack, is_held=True) as census:
        job = await census.submit(dataset)
        await asyncio.wait_for(census.program.entered.wait(), SECONDS)
    async with database_of(stack) as database:
        starts = sa.update(tables("census").jobs).values(starts=MAX_STARTS, starts_sequence=LAST_SEQUENCE)
        await database.write(lambda connection: connection.execute(starts))
    # Held: a chunk that is done before the job is taken up would be progress, and the job would go on.
    async with census_service(stack, is_held=True) as census:
        job = await asyncio.wait_for(census.end_of(job), SECONDS)
    assert (job.state, from_status(job.error).reason) == (Job.STATE_FAILED, "JOB_ENDS_PROCESS")


async def test_its_records_are_quarantined_and_too_many_of_them_fail_the_job(stack: ServiceStack, dataset: str) -> None:
    async with census_service(stack) as census:
        job = await asyncio.wait_for(census.end_of(await census.submit(dataset, forbidden="x" * 18)), SECONDS)
        assert (job.state, job.stages[0].quarantined) == (Job.STATE_SUCCEEDED, 3)
        assert {len(text_of(r.prompt)) for r in await rows(stack, "quarantine")} == {18, 19, 20}
        job = await census.submit(dataset, census_id="second", forbidden="x" * 5)
        job = await asyncio.wait_for(census.end_of(job), SECONDS)
        assert job.state == Job.STATE_FAILED
        assert from_status(job.error).reason == "QUARANTINE_LIMIT"
        assert job.stages[0].state == Stage.STATE_FAILED


async def test_its_jobs_are_paused_resumed_and_cancelled(stack: ServiceStack, dataset: str) -> None:
    async with census_service(stack, is_held=True) as census:
        jobs = census.pipeline.jobs
        job = await census.submit(dataset)
        await asyncio.wait_for(census.program.entered.wait(), SECONDS)
        assert (await jobs.pause(job.name)).state == Job.STATE_PAUSED
        assert (await jobs.resume(job.name)).state == Job.STATE_RUNNING
        assert (await jobs.cancel(job.name)).state == Job.STATE_CANCELLING
        job = await asyncio.wait_for(census.end_of(job), SECONDS)
        assert job.state == Job.STATE_CANCELLED
        with pytest.raises(FailedPrecondition, match="cannot be paused: it is cancelled"):
            await jobs.pause(job.name)
