"""Prometheus metrics of the alignment service. The names are promises: dashboards and alerts use them."""

import time
from collections.abc import Mapping, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from omnialign.v1 import alignment_service_pb2
from services.alignment import tables
from services.alignment.counts import Counts

Job = alignment_service_pb2.AlignmentJob

STEP_BUCKETS_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900)
OUTCOMES, VERDICTS = ("completed", "quarantined", "abstained"), ("win", "tie", "loss", "abstain")
STEPS = (*tables.LOOP_STAGES, *tables.EVALUATION_STEPS)
COMPARING = (tables.VERIFY, tables.EVALUATION)
UNFINISHED = (Job.STATE_QUEUED, Job.STATE_RUNNING, Job.STATE_PAUSED, Job.STATE_CANCELLING)
ENDED = (Job.STATE_SUCCEEDED, Job.STATE_FAILED, Job.STATE_CANCELLED)


class Metrics:
    """What an operator watches: records by stage and outcome, the queue of chunks, waits, and the yield of pairs."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.records = Counter(
            "omnialign_alignment_records_total", "Records through a stage.", ("stage", "outcome"), registry=registry
        )
        self.tokens = Counter(
            "omnialign_alignment_tokens_total", "Tokens written by models.", ("stage",), registry=registry
        )
        self.step_seconds = Histogram(
            "omnialign_alignment_step_duration_seconds",
            "Time of one stage of one chunk, its commit included.",
            ("stage",),
            buckets=STEP_BUCKETS_SECONDS,
            registry=registry,
        )
        self.retried = Counter(
            "omnialign_alignment_steps_repeated_total", "Chunks begun again in a stage.", ("stage",), registry=registry
        )
        self.queue_depth = Gauge("omnialign_alignment_queue_depth", "Chunks that wait.", registry=registry)
        self.queue_age = Gauge(
            "omnialign_alignment_queue_age_seconds", "Age of the chunk that waits longest.", registry=registry
        )
        self.jobs = Gauge("omnialign_alignment_jobs", "Jobs that have not ended.", ("state",), registry=registry)
        self._ended = Counter("omnialign_alignment_jobs_ended_total", "Jobs that ended.", ("state",), registry=registry)
        self.comparisons = Counter(
            "omnialign_alignment_comparisons_total",
            "Answers compared by the judge in a stage, by verdict on the later one: win, tie, loss, abstain.",
            ("stage", "verdict"),
            registry=registry,
        )
        self.waiting = Gauge(
            "omnialign_alignment_waiting", "Jobs that wait for a service.", ("service",), registry=registry
        )
        self.pair_yield = Gauge(
            "omnialign_alignment_pair_yield_ratio", "Share of tried refinements kept, newest job.", registry=registry
        )
        self._begin_at_zero()

    def count(self, stage: str, counts: Counts) -> None:
        """Counts what a chunk committed in a stage."""
        for outcome in OUTCOMES:
            self.records.labels(stage, outcome).inc(getattr(counts, outcome))
        self.tokens.labels(stage).inc(counts.tokens)
        if stage in COMPARING:
            numbers = (counts.kept, counts.tied, counts.lost, counts.abstained)
            for verdict, number in zip(VERDICTS, numbers, strict=True):
                self.comparisons.labels(stage, verdict).inc(number)

    def ended(self, state: int) -> None:
        """Counts the end of a job."""
        self._ended.labels(_label(state)).inc()

    def _begin_at_zero(self) -> None:
        """Makes the series of all labels: the first step of a series that appears late is seen by no `rate`."""
        for state in ENDED:
            self._ended.labels(_label(state))
        for stage in STEPS:
            self.tokens.labels(stage)
            for outcome in OUTCOMES:
                self.records.labels(stage, outcome)
        for stage in COMPARING:
            for verdict in VERDICTS:
                self.comparisons.labels(stage, verdict)

    def show_pairs(self, pairs: alignment_service_pb2.PairCounts) -> None:
        """Shows the yield of the gate."""
        if pairs.tried:
            self.pair_yield.set(pairs.kept / pairs.tried)

    def show_waiting(self, services: Mapping[str, int]) -> None:
        """Shows how many jobs wait for which service."""
        self.waiting.clear()
        for service, count in services.items():
            self.waiting.labels(service).set(count)

    def show_queue(self, queued_ms: Sequence[int]) -> None:
        """Shows the chunks that wait, given the times at which they were queued."""
        self.queue_depth.set(len(queued_ms))
        self.queue_age.set(max(0.0, time.time() - min(queued_ms) / 1000) if queued_ms else 0.0)

    def show_jobs(self, states: Sequence[int]) -> None:
        """Shows how many jobs are in which state."""
        for value in UNFINISHED:
            self.jobs.labels(_label(value)).set(sum(state == value for state in states))


def _label(state: int) -> str:
    return Job.State.Name(state).removeprefix("STATE_").lower()  # type: ignore[arg-type]
