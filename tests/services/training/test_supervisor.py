"""Processes: cancelled, crashed, silent, adopted."""

import asyncio
import os
import signal
import time
from pathlib import Path

from omnialign.client import AsyncClient
from omnialign.v1.training_service_pb2 import TrainingJob
from services.training.process_groups import processes_of
from tests.processes import free_port

NAME = "projects/default/trainingJobs/tune"


async def reach(client: AsyncClient, *states: int) -> TrainingJob:
    async for event in client.watch_training_job(NAME):
        if event.training_job.state in states:
            return event.training_job
    raise AssertionError("the job ended before it got there")


async def end_of(client: AsyncClient) -> TrainingJob:
    return [event async for event in client.watch_training_job(NAME)][-1].training_job


async def until(condition) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - another process makes it true
            await asyncio.sleep(0.01)


STUBBORN = """
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if len(sys.argv) < 4:
    subprocess.Popen([sys.executable, *sys.argv, "child"], start_new_session=True)
else:
    (output / "ready").touch()
time.sleep(600)
"""


async def test_cancel_ends_stubborn_processes_and_grandchildren_of_other_sessions(serve, spec, program, tmp_path):
    async with serve(program(STUBBORN)) as client:
        await client.create_training_job("tune", spec)
        job = await reach(client, TrainingJob.STATE_RUNNING)
        await until((tmp_path / "training" / "jobs" / job.uid / "output" / "ready").exists)
        assert len(processes_of(job.uid)) == 2
        began = time.monotonic()
        await client.cancel_training_job(NAME)
        assert (await end_of(client)).state == TrainingJob.STATE_CANCELLED
        assert time.monotonic() - began < 10
        assert processes_of(job.uid) == []
        assert (await client.cancel_training_job(NAME)).state == TrainingJob.STATE_CANCELLED


async def test_a_queued_job_is_cancelled_without_ever_starting(serve, spec, program):
    async with serve(program("time.sleep(600)")) as client:
        await client.create_training_job("first", spec)
        await client.create_training_job("tune", spec)
        await client.cancel_training_job(NAME)
        job = await end_of(client)
        assert (job.state, job.attempt_count) == (TrainingJob.STATE_CANCELLED, 0)


async def test_a_crashed_job_is_failed_with_its_log_tail_and_exit_reason(serve, spec, program):
    lines = "for i in range(100): print('line', i, flush=True)\nos.kill(os.getpid(), signal.SIGKILL)"
    async with serve(program(lines)) as client:
        await client.create_training_job("tune", spec)
        job = await end_of(client)
        assert job.state == TrainingJob.STATE_FAILED
        assert "SIGKILL" in job.error.message
        assert list(job.log_tail) == [f"line {i}" for i in range(60, 100)]


async def test_a_crashed_job_is_started_again_as_often_as_allowed(serve, spec, program):
    spec.max_restarts = 2
    async with serve(program("finish() if starts() == 3 else sys.exit(1)")) as client:
        await client.create_training_job("tune", spec)
        job = await end_of(client)
        assert (job.state, job.attempt_count) == (TrainingJob.STATE_SUCCEEDED, 3)


async def test_a_typed_failure_of_the_data_is_final_and_keeps_its_reason(serve, spec, program, monkeypatch):
    spec.max_restarts = 5
    lines = """
from omnialign.errors import FailedPrecondition
from training.launch import write_failure
write_failure(output, FailedPrecondition("nothing to train on", reason="NO_EXAMPLES"))
sys.exit(65)
"""
    monkeypatch.setenv("PYTHONPATH", str(Path.cwd()))
    async with serve(program(lines)) as client:
        await client.create_training_job("tune", spec)
        job = await end_of(client)
        assert (job.state, job.attempt_count) == (TrainingJob.STATE_FAILED, 1)
        assert b"NO_EXAMPLES" in job.error.SerializeToString()


async def test_a_silent_job_is_killed_and_failed(serve, spec, program):
    async with serve(program("time.sleep(600)"), heartbeat_timeout_seconds=0.3) as client:
        await client.create_training_job("tune", spec)
        job = await end_of(client)
        assert job.state == TrainingJob.STATE_FAILED
        assert b"HEARTBEAT_LOST" in job.error.SerializeToString()
        assert processes_of(job.uid) == []


async def test_an_unknown_base_model_fails_the_job_before_anything_starts(serve, spec, program):
    spec.base_model = "projects/default/models/none/versions/1"
    async with serve(program("finish()")) as client:
        await client.create_training_job("tune", spec)
        job = await end_of(client)
        assert (job.state, job.attempt_count) == (TrainingJob.STATE_FAILED, 0)


async def test_a_restarted_service_adopts_the_process_that_still_runs(serve, spec, program, tmp_path):
    command, port = program("starts(); wait_for(output / 'go'); finish()"), free_port()
    async with serve(command, port=port, stop_jobs_on_shutdown=False) as client:
        await client.create_training_job("tune", spec)
        job = await reach(client, TrainingJob.STATE_RUNNING)
    assert processes_of(job.uid)
    async with serve(command, port=port) as client:
        (tmp_path / "training" / "jobs" / job.uid / "output" / "go").touch()
        job = await end_of(client)
        assert (job.state, job.attempt_count) == (TrainingJob.STATE_SUCCEEDED, 1)


async def test_a_job_whose_process_died_with_the_service_is_started_again_without_counting_a_crash(
    serve, spec, program, tmp_path
):
    command, port = program("finish() if starts() == 2 else time.sleep(600)"), free_port()
    async with serve(command, port=port, stop_jobs_on_shutdown=False) as client:
        await client.create_training_job("tune", spec)
        job = await reach(client, TrainingJob.STATE_RUNNING)
    await until((tmp_path / "training" / "jobs" / job.uid / "output" / "starts").exists)
    for pid in processes_of(job.uid):
        os.kill(pid, signal.SIGKILL)
    async with serve(command, port=port) as client:
        job = await end_of(client)
        assert (job.state, job.attempt_count) == (TrainingJob.STATE_SUCCEEDED, 2)


async def test_an_orderly_shutdown_stops_the_processes_and_the_job_goes_on_at_the_next_start(
    serve, spec, program, tmp_path
):
    command = program("finish() if starts() == 2 else time.sleep(600)")
    async with serve(command) as client:
        await client.create_training_job("tune", spec)
        job = await reach(client, TrainingJob.STATE_RUNNING)
        await until((tmp_path / "training" / "jobs" / job.uid / "output" / "starts").exists)
        assert processes_of(job.uid)
    assert processes_of(job.uid) == []
    async with serve(command) as client:
        assert (await client.get_training_job(NAME)).state == TrainingJob.STATE_RUNNING
        assert (await end_of(client)).state == TrainingJob.STATE_SUCCEEDED
