"""Jobs as callers see them."""

import uuid
from pathlib import Path

import pytest
import yaml

from omnialign import names
from omnialign.client import AsyncClient
from omnialign.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    Unauthenticated,
)
from omnialign.modeling.inputs import MediaPolicy
from omnialign.v1 import training_service_pb2_grpc
from omnialign.v1.training_service_pb2 import (
    TrainingJob,
    TrainingProgress,
    WatchTrainingJobRequest,
    WatchTrainingJobResponse,
)
from training.spec_file import read_spec

NAME = "projects/default/trainingJobs/tune"


async def watch(client: AsyncClient, *, resume_after: int = 0) -> list[WatchTrainingJobResponse]:
    return [event async for event in client.watch_training_job(NAME, resume_after=resume_after)]


async def state_of(client: AsyncClient, wanted: int) -> TrainingJob:
    async for event in client.watch_training_job(NAME):
        if event.training_job.state == wanted:
            return event.training_job
    raise AssertionError("the job ended before it got there")


async def test_a_job_that_ends_well_has_its_model_registered_with_lineage(serve, spec, program):
    async with serve(program("finish()")) as client:
        created = await client.create_training_job("tune", spec)
        assert created.state == TrainingJob.STATE_QUEUED
        job = (await watch(client))[-1].training_job
        assert job.state == TrainingJob.STATE_SUCCEEDED, job
        assert (await client.get_model_version(job.model)).uri.endswith("/output/model")
        sources = {edge.source for edge in (await client.get_lineage(job.model)).edges}
        assert {spec.dataset, spec.base_model, NAME} <= sources


async def test_the_program_gets_the_media_policy_and_the_shared_cache(serve, spec, program, tmp_path: Path):
    spec.media_policy.max_frames = 8
    spec.media_policy.use_damaged = True
    told, features = tmp_path / "told", tmp_path / "features"
    tell = f"shutil.copy(sys.argv[2], {str(told)!r})\nprint(os.environ['OMNIALIGN_ENGINE_FEATURE_CACHE'])\nfinish()"
    async with serve(program(tell), feature_cache=features) as client:
        await client.create_training_job("tune", spec)
        job = (await watch(client))[-1].training_job
    assert job.state == TrainingJob.STATE_SUCCEEDED, job
    assert read_spec(told, method=spec.method).media_policy == MediaPolicy(max_frames=8, use_damaged=True)
    assert str(features) in job.log_tail


async def test_events_are_numbered_without_gaps_and_a_watch_resumes_without_loss(serve, spec, program):
    async with serve(program("finish()")) as client:
        await client.create_training_job("tune", spec)
        everything = await watch(client)
        assert [event.sequence for event in everything] == list(range(1, len(everything) + 1))
        assert await watch(client, resume_after=1) == everything[1:]
        stub = training_service_pb2_grpc.TrainingServiceStub(client._transport.channel)
        request = WatchTrainingJobRequest(name=NAME, resume_after=len(everything))
        assert [event async for event in stub.WatchTrainingJob(request, timeout=5)] == []


async def test_what_a_job_trains_on_stays_until_it_has_ended(serve, spec, program, tmp_path: Path):
    async with serve(program(f"wait_for({str(tmp_path / 'go')!r})\nfinish()")) as client:
        spec.base_model = (await client.register_model("base", spec.base_model)).name
        await client.create_dataset("pairs")
        await client.create_training_job("tune", spec)
        for delete, name in ((client.delete_dataset, spec.dataset), (client.delete_model_version, spec.base_model)):
            with pytest.raises(FailedPrecondition) as caught:
                await delete(name)
            assert caught.value.metadata["users"] == NAME
        (tmp_path / "go").touch()
        assert (await watch(client))[-1].training_job.state == TrainingJob.STATE_SUCCEEDED
        await client.delete_dataset(spec.dataset)
        await client.delete_model_version(spec.base_model)


async def test_a_repeated_request_for_a_job_that_has_ended_uses_nothing(serve, spec, program):
    request_id = str(uuid.uuid4())
    async with serve(program("finish()")) as client:
        await client.create_dataset("pairs")
        await client.create_training_job("tune", spec, request_id=request_id)
        await watch(client)
        await client.create_training_job("tune", spec, request_id=request_id)
        assert not (await client.get_dataset(spec.dataset)).users


async def test_the_same_request_id_gives_the_same_job_and_another_body_is_refused(serve, spec, program):
    request_id = str(uuid.uuid4())
    async with serve(program("finish()")) as client:
        first = await client.create_training_job("tune", spec, request_id=request_id)
        again = await client.create_training_job("tune", spec, request_id=request_id)
        assert again.uid == first.uid
        with pytest.raises(InvalidArgument):
            await client.create_training_job("other", spec, request_id=request_id)
        with pytest.raises(AlreadyExists):
            await client.create_training_job("tune", spec)


async def test_jobs_are_listed_newest_first_and_a_missing_one_is_not_found(serve, spec, program):
    async with serve(program("time.sleep(60)")) as client:
        for number in range(3):
            await client.create_training_job(f"job-{number}", spec)
        job_ids = [names.id_of(job.name) async for job in client.list_training_jobs()]
        assert job_ids == ["job-2", "job-1", "job-0"]
        with pytest.raises(NotFound):
            await client.get_training_job(NAME)


async def test_a_spec_that_cannot_run_is_refused_before_it_is_queued(serve, spec, program):
    spec.target = "feedback"
    async with serve(program("finish()")) as client:
        with pytest.raises(InvalidArgument):
            await client.create_training_job("tune", spec)
        spec.target = ""
        spec.hyperparameters.batch_size, spec.distribution.num_processes = 3, 2
        with pytest.raises(InvalidArgument) as caught:
            await client.create_training_job("tune", spec)
        assert caught.value.reason == "TRAINING_SPEC_INVALID"


async def test_only_one_job_runs_at_a_time(serve, spec, program, tmp_path: Path):
    async with serve(program("wait_for(output.parents[3] / 'go'); finish()")) as client:
        await client.create_training_job("tune", spec)
        await client.create_training_job("later", spec)
        await state_of(client, TrainingJob.STATE_RUNNING)
        later = await client.get_training_job("projects/default/trainingJobs/later")
        assert later.state == TrainingJob.STATE_QUEUED
        (tmp_path / "go").touch()
        later_events = [e async for e in client.watch_training_job("projects/default/trainingJobs/later")]
        assert later_events[-1].training_job.state == TrainingJob.STATE_SUCCEEDED


async def test_progress_needs_the_jobs_own_token(serve, spec, program, tmp_path: Path):
    async with serve(program("(output / 'token').write_text(spec['token']); time.sleep(60)")) as client:
        await client.create_training_job("tune", spec)
        job = await state_of(client, TrainingJob.STATE_RUNNING)
        progress = TrainingProgress(completed_steps=3, total_steps=10, metrics={"loss": 1.5})
        with pytest.raises(Unauthenticated):
            await client.report_progress(NAME, progress)
        token_file = tmp_path / "training" / "jobs" / job.uid / "job.yaml"
        assert token_file.stat().st_mode & 0o077 == 0
        token = yaml.safe_load(token_file.read_text())["token"]
        address = client._transport.address
        async with AsyncClient(address, token="wrong") as stranger:
            with pytest.raises(PermissionDenied):
                await stranger.report_progress(NAME, progress)
        async with AsyncClient(address, token=token) as reporter:
            assert not (await reporter.report_progress(NAME, progress)).stop_requested
            seen = (await client.get_training_job(NAME)).progress
            assert (seen.completed_steps, seen.metrics["loss"]) == (3, 1.5)
            await client.cancel_training_job(NAME)
            assert (await reporter.report_progress(NAME, progress)).stop_requested
