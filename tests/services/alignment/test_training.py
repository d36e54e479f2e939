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
        "feedback_modeling: step 3 of 9. feedback waits: 0/1 nodes are available: 1 Insufficient cpu [UNSCHEDULABLE]."
    )
    seen["feedback"].ClearField("condition")
    assert _shows("feedback_modeling", seen)(job) == "feedback_modeling: step 3 of 9."
