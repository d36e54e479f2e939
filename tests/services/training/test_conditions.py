"""What a job says of itself while it does no steps."""

from omnialign.v1.training_service_pb2 import TrainingJob, TrainingProgress
from services.training.conditions import NONE, STARTING, note_new_attempt, note_report, of_running, waiting_for_slot
from tests.services.training.test_supervisor import reach

READING = TrainingProgress.PHASE_READING_RECORDS


def test_a_job_that_is_not_due_says_how_many_are_ahead():
    assert waiting_for_slot(ahead=1, max_running=1).message.endswith("1 job runs at a time, and 1 is ahead of it")
    assert waiting_for_slot(ahead=5, max_running=4).message.endswith("4 jobs run at a time, and 5 are ahead of it")


def test_a_job_that_reads_says_how_far_it_is():
    reads = of_running(TrainingProgress(phase=READING, records_read=3000, records_total=12000))
    assert (reads.reason, reads.message) == ("READING_RECORDS", "reads its records: 3,000 of 12,000")
    assert of_running(TrainingProgress(phase=READING, records_read=128)).message == "reads its records: 128 so far"
    assert of_running(TrainingProgress(phase=TrainingProgress.PHASE_TRAINING)) == NONE


def test_every_phase_but_training_has_a_sentence():
    phases = set(TrainingProgress.Phase.values()) - {TrainingProgress.PHASE_TRAINING}
    assert all(of_running(TrainingProgress(phase=phase)).message for phase in phases)  # type: ignore[arg-type]


def test_a_bare_heartbeat_and_a_new_attempt_take_no_step_back():
    progress = TrainingProgress(completed_steps=40, total_steps=100, phase=TrainingProgress.PHASE_TRAINING)
    note_report(progress, TrainingProgress())
    assert (progress.completed_steps, progress.phase) == (40, TrainingProgress.PHASE_TRAINING)
    note_new_attempt(progress)
    assert of_running(progress) == STARTING
    note_report(progress, TrainingProgress(phase=READING, records_read=1, records_total=2))
    assert (progress.completed_steps, progress.total_steps, progress.phase) == (40, 100, READING)
    note_report(progress, TrainingProgress(completed_steps=30, total_steps=100))
    assert of_running(progress) == NONE and progress.completed_steps == 30


async def test_jobs_that_wait_and_jobs_that_start_show_it_until_they_train(serve, spec, program, tmp_path):
    gate = tmp_path / "gate"
    lines = f"""
from omnialign.client import Client
from omnialign.v1.training_service_pb2 import TrainingProgress
with Client(spec["training_address"], token=spec["token"]) as client:
    client.report_progress(spec["job"], TrainingProgress(phase={READING}, records_read=3, records_total=12))
    wait_for({str(gate)!r})
    client.report_progress(spec["job"], TrainingProgress(completed_steps=1, total_steps=2))
finish()
"""
    async with serve(program(lines)) as client:
        await client.create_training_job("tune", spec)
        second = await client.create_training_job("second", spec)
        reasons = []
        async for event in client.watch_training_job("projects/default/trainingJobs/tune"):
            condition = event.training_job.condition
            if condition.reason not in reasons:
                reasons.append(condition.reason)
            if condition.reason == "READING_RECORDS":
                assert condition.message == "reads its records: 3 of 12"
                break
        assert [reason for reason in reasons if reason] == ["STARTING", "READING_RECORDS"]
        async for event in client.watch_training_job(second.name):
            if event.training_job.condition.reason == "WAITING_FOR_SLOT":
                break
        gate.touch()
        job = await reach(client, TrainingJob.STATE_SUCCEEDED)
        assert not job.HasField("condition") and job.progress.completed_steps == 1


async def test_a_watch_that_resumes_after_the_job_that_was_read_brings_only_what_is_new(serve, spec, program):
    async with serve(program("finish()")) as client:
        await client.create_training_job("tune", spec)
        await reach(client, TrainingJob.STATE_SUCCEEDED)
        job = await client.get_training_job("projects/default/trainingJobs/tune")
        events = [event.sequence async for event in client.watch_training_job(job.name)]
        assert job.last_event == events[-1] == len(events)
        assert [event async for event in client.watch_training_job(job.name, resume_after=job.last_event)] == []
