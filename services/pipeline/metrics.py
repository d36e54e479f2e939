"""Prometheus metrics that the jobs of every kind have, as `omnialign_<kind>_...`.

The names are promises: dashboards and alerts use them.
"""

import time
from collections.abc import Mapping, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from services.pipeline.counts import Counts
from services.pipeline.kind import JobKind, Step

STEP_BUCKETS_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900)
FATES = ("completed", "quarantined", "abstained")


class PipelineMetrics:
    """What an operator watches of any kind: records by stage and outcome, the queue of chunks, waits, and jobs.

    The label `stage` holds the name of a step where records and tokens are counted, and of a stage elsewhere.
    """

    def __init__(self, registry: CollectorRegistry, kind: JobKind) -> None:
        self._kind = kind
        prefix = f"omnialign_{kind.name}"
        self.records = Counter(
            f"{prefix}_records_total", "Records through a stage.", ("stage", "outcome"), registry=registry
        )
        self.tokens = Counter(f"{prefix}_tokens_total", "Tokens written by models.", ("stage",), registry=registry)
        self.step_seconds = Histogram(
            f"{prefix}_step_duration_seconds",
            "Time of one stage of one chunk, its commit included.",
            ("stage",),
            buckets=STEP_BUCKETS_SECONDS,
            registry=registry,
        )
        self.steps_repeated = Counter(
            f"{prefix}_steps_repeated_total", "Chunks begun again in a stage.", ("stage",), registry=registry
        )
        self.queue_depth = Gauge(f"{prefix}_queue_depth", "Groups of chunks that wait.", registry=registry)
        self.queue_age = Gauge(
            f"{prefix}_queue_age_seconds", "Age of the group of chunks that waits longest.", registry=registry
        )
        self.jobs = Gauge(f"{prefix}_jobs", "Jobs that have not ended.", ("state",), registry=registry)
        self.jobs_ended = Counter(f"{prefix}_jobs_ended_total", "Jobs that ended.", ("state",), registry=registry)
        self.waiting = Gauge(f"{prefix}_waiting", "Jobs that wait for a service.", ("service",), registry=registry)
        for state in kind.ended:
            self.jobs_ended.labels(kind.state_label(state))

    def declare_steps(self, steps: Sequence[Step]) -> None:
        """Makes the series of all steps. `rate` sees no increase in a series that appears with its first value."""
        for label in {step.label or step.name for step in steps}:
            self.tokens.labels(label)
            for fate in FATES:
                self.records.labels(label, fate)

    def count_step(self, step: Step, counts: Counts, *, seconds: float) -> None:
        """Counts what a chunk committed in a step, and the time that it took."""
        label = step.label or step.name
        for fate in FATES:
            self.records.labels(label, fate).inc(getattr(counts, fate))
        self.tokens.labels(label).inc(counts.tokens)
        self.step_seconds.labels(step.label or step.stage).observe(seconds)

    def count_end(self, state: int) -> None:
        """Counts a job that ended in this state."""
        self.jobs_ended.labels(self._kind.state_label(state)).inc()

    def show_waiting(self, services: Mapping[str, int]) -> None:
        """Shows how many jobs wait for each service."""
        self.waiting.clear()
        for service, count in services.items():
            self.waiting.labels(service).set(count)

    def show_queue(self, waiting: int, oldest_ms: int) -> None:
        """Shows the groups of chunks that wait, and when the oldest was queued (milliseconds since 1970)."""
        self.queue_depth.set(waiting)
        self.queue_age.set(max(0.0, time.time() - oldest_ms / 1000) if waiting else 0.0)

    def show_jobs(self, states: Sequence[int]) -> None:
        """Shows how many jobs are in each state, given the states of all that have not ended."""
        for state in self._kind.unfinished:
            self.jobs.labels(self._kind.state_label(state)).set(states.count(state))
