"""What the training service tells Prometheus of its jobs."""

import time

import pytest
from prometheus_client import CollectorRegistry

from omnialign.v1.training_service_pb2 import TrainingJob
from services.training.metrics import Metrics

ENDED = ("succeeded", "failed", "cancelled")


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def metrics(registry) -> Metrics:
    return Metrics(registry)


def job(state: int, *, age_seconds: float = 0.0, silent_seconds: float = 0.0, held: str = "") -> TrainingJob:
    made = TrainingJob(state=state, attempt_count=1)
    made.create_time.FromMilliseconds(int(1000 * (time.time() - age_seconds)))
    if state == TrainingJob.STATE_RUNNING:
        made.start_time.CopyFrom(made.create_time)
        made.progress.heartbeat_time.FromMilliseconds(int(1000 * (time.time() - silent_seconds)))
    made.condition.reason = held
    return made


def test_jobs_are_counted_by_state_and_states_without_jobs_are_zero(metrics, registry):
    metrics.show([job(TrainingJob.STATE_QUEUED), job(TrainingJob.STATE_QUEUED), job(TrainingJob.STATE_RUNNING)])
    found = {s: registry.get_sample_value("omnialign_training_jobs", {"state": s}) for s in ("queued", "running")}
    assert found == {"queued": 2, "running": 1}
    metrics.show([])
    assert registry.get_sample_value("omnialign_training_jobs", {"state": "queued"}) == 0


def test_the_oldest_queued_and_the_most_silent_running_job_are_shown(metrics, registry):
    jobs = [job(TrainingJob.STATE_QUEUED, age_seconds=seconds) for seconds in (5, 300)]
    metrics.show([*jobs, job(TrainingJob.STATE_RUNNING, age_seconds=900, silent_seconds=40)])
    assert registry.get_sample_value("omnialign_training_queue_age_seconds") == pytest.approx(300, abs=5)
    assert registry.get_sample_value("omnialign_training_heartbeat_age_seconds") == pytest.approx(40, abs=5)


def test_a_job_that_has_just_begun_is_not_silent(metrics, registry):
    begun = job(TrainingJob.STATE_RUNNING)
    begun.progress.ClearField("heartbeat_time")
    metrics.show([begun])
    assert registry.get_sample_value("omnialign_training_heartbeat_age_seconds") == pytest.approx(0, abs=5)


def test_what_holds_jobs_up_is_shown_while_it_does(metrics, registry):
    metrics.show([job(TrainingJob.STATE_RUNNING, held="UNSCHEDULABLE"), job(TrainingJob.STATE_QUEUED)])
    assert registry.get_sample_value("omnialign_training_jobs_held", {"reason": "UNSCHEDULABLE"}) == 1
    metrics.show([job(TrainingJob.STATE_RUNNING)])
    assert registry.get_sample_value("omnialign_training_jobs_held", {"reason": "UNSCHEDULABLE"}) is None


def test_the_first_start_is_a_wait_and_later_ones_are_restarts(metrics, registry):
    started = job(TrainingJob.STATE_RUNNING, age_seconds=7)
    metrics.started(started)
    started.attempt_count = 2
    metrics.started(started)
    assert registry.get_sample_value("omnialign_training_start_wait_seconds_sum") == pytest.approx(7, abs=5)
    assert registry.get_sample_value("omnialign_training_start_wait_seconds_count") == 1
    assert registry.get_sample_value("omnialign_training_restarts_total") == 1


def test_ends_are_counted_from_zero(metrics, registry):
    metrics.ended(TrainingJob.STATE_FAILED)
    counts = {s: registry.get_sample_value("omnialign_training_jobs_ended_total", {"state": s}) for s in ENDED}
    assert counts == {"succeeded": 0, "failed": 1, "cancelled": 0}
