"""What an alignment job says of its training jobs."""

from omnialign.v1 import alignment_service_pb2, training_service_pb2
from services.alignment.training_jobs import _shows

TrainingJob = training_service_pb2.TrainingJob
Condition = training_service_pb2.TrainingCondition


def test_a_job_that_is_held_up_says_so_in_the_words_of_who_holds_it():
    job = alignment_service_pb2.AlignmentJob(stages=[alignment_service_pb2.StageStatus(stage="feedback_modeling")])
    held = Condition(reason="UNSCHEDULABLE", message="0/1 nodes are available: 1 Insufficient cpu.")
    seen = {"feedback": TrainingJob(condition=held), "judge": TrainingJob(state=TrainingJob.STATE_RUNNING)}
    seen["judge"].progress.completed_steps, seen["judge"].progress.total_steps = 3, 9
    assert _shows("feedback_modeling", seen)(job) == (
        "feedback_modeling: step 3 of 9. feedback: 0/1 nodes are available: 1 Insufficient cpu [UNSCHEDULABLE]."
    )
    seen["feedback"].ClearField("condition")
    assert _shows("feedback_modeling", seen)(job) == "feedback_modeling: step 3 of 9."


def test_a_stage_without_a_step_says_what_its_jobs_wait_for_and_never_step_0_of_0():
    job = alignment_service_pb2.AlignmentJob(stages=[alignment_service_pb2.StageStatus(stage="optimize")])
    turn = Condition(
        reason="WAITING_FOR_SLOT", message="waits for its turn: 1 job runs at a time, and 2 are ahead of it"
    )
    message = _shows("optimize", {"optimize": TrainingJob(condition=turn)})(job)
    assert message == f"optimize: {turn.message} [WAITING_FOR_SLOT]."
    assert job.stages[0].conditions["optimize"] == turn


def test_a_stage_whose_jobs_say_nothing_yet_says_that_it_waits_for_them():
    job = alignment_service_pb2.AlignmentJob(stages=[alignment_service_pb2.StageStatus(stage="optimize")])
    assert _shows("optimize", {"optimize": TrainingJob()})(job) == "optimize: waits for its training."


def test_a_stage_keeps_its_steps_while_a_restarted_service_has_not_seen_all_of_its_jobs_again():
    stage = alignment_service_pb2.StageStatus(stage="feedback_modeling", completed=30, total=100)
    job = alignment_service_pb2.AlignmentJob(stages=[stage])
    _shows("feedback_modeling", {"judge": TrainingJob(state=TrainingJob.STATE_QUEUED)})(job)
    assert (job.stages[0].completed, job.stages[0].total) == (30, 100)
