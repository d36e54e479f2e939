"""Prometheus metrics of the training service. The names are promises: dashboards and alerts use them."""

import time
from collections import Counter as Count
from collections.abc import Sequence

from google.protobuf.timestamp_pb2 import Timestamp
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from omnialign.v1.training_service_pb2 import TrainingJob
from services.training.store import ENDED

WAIT_BUCKETS_SECONDS = (0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600)
UNFINISHED = (TrainingJob.STATE_QUEUED, TrainingJob.STATE_RUNNING, TrainingJob.STATE_CANCELLING)


class Metrics:
    """What an operator watches: jobs by state, how long they wait, what blocks them, and how they end."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._jobs = Gauge("omnialign_training_jobs", "Jobs that have not ended.", ("state",), registry=registry)
        self._queue_age = Gauge(
            "omnialign_training_queue_age_seconds", "Age of the job that waits longest to start.", registry=registry
        )
        self._heartbeat_age = Gauge(
            "omnialign_training_heartbeat_age_seconds",
            "Time since the most silent running job last spoke; 0 when none runs.",
            registry=registry,
        )
        self._held = Gauge(
            "omnialign_training_jobs_held", "Jobs that something holds up, by reason.", ("reason",), registry=registry
        )
        self._start_wait = Histogram(
            "omnialign_training_start_wait_seconds",
            "Time from a job's creation to the start of its first process.",
            buckets=WAIT_BUCKETS_SECONDS,
            registry=registry,
        )
        self._restarts = Counter(
            "omnialign_training_restarts_total", "Attempts begun after a job's first.", registry=registry
        )
        self._ended = Counter("omnialign_training_jobs_ended_total", "Jobs that ended.", ("state",), registry=registry)
        for state in ENDED:
            self._ended.labels(
                _label(state)
            )  # starts the series at 0: the first failure must be an increase, not a new series

    def show(self, jobs: Sequence[TrainingJob]) -> None:
        """Shows the jobs that have not ended."""
        now = time.time()
        for state in UNFINISHED:
            self._jobs.labels(_label(state)).set(sum(job.state == state for job in jobs))
        waiting = [now - _seconds(job.create_time) for job in jobs if job.state == TrainingJob.STATE_QUEUED]
        self._queue_age.set(max(waiting, default=0.0))
        silent = [now - _heard_of(job) for job in jobs if job.state == TrainingJob.STATE_RUNNING]
        self._heartbeat_age.set(max(silent, default=0.0))
        self._show_held(jobs)

    def started(self, job: TrainingJob) -> None:
        """Counts an attempt that begins now."""
        if job.attempt_count > 1:
            self._restarts.inc()
        else:
            self._start_wait.observe(max(0.0, time.time() - _seconds(job.create_time)))

    def ended(self, state: "TrainingJob.State.ValueType") -> None:
        """Counts the end of a job."""
        self._ended.labels(_label(state)).inc()

    def _show_held(self, jobs: Sequence[TrainingJob]) -> None:
        self._held.clear()
        for reason, count in Count(job.condition.reason for job in jobs).items():
            if reason:
                self._held.labels(reason).set(count)


def _heard_of(job: TrainingJob) -> float:
    return max(_seconds(job.progress.heartbeat_time), _seconds(job.start_time))


def _seconds(moment: Timestamp) -> float:
    return float(moment.ToMilliseconds()) / 1000


def _label(state: "TrainingJob.State.ValueType") -> str:
    return TrainingJob.State.Name(state).removeprefix("STATE_").lower()
