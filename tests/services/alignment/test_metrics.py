"""What the alignment service tells Prometheus of its jobs."""

import pytest
from prometheus_client import CollectorRegistry

from omnialign.retry import RetryPolicy
from omnialign.v1.alignment_service_pb2 import AlignmentJob
from services.alignment.evaluation_steps import EvaluationSteps
from services.alignment.job import ALIGNMENT
from services.alignment.self_improvement import self_improvement_steps
from services.alignment.summary import AlignmentMetrics
from services.pipeline.counts import Counts
from services.pipeline.item_calls import ItemCaller
from services.pipeline.metrics import PipelineMetrics
from services.pipeline.service_calls import ServiceRetrier


async def nobody(uid: str, service: str, problem: str) -> None:
    """Hears that a job waits for a service."""


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def metrics(registry) -> AlignmentMetrics:
    return AlignmentMetrics(registry)


@pytest.fixture
def pipeline_metrics(registry) -> PipelineMetrics:
    retrier = ServiceRetrier(RetryPolicy(), announce=nobody)
    caller = ItemCaller(retrier, deadline_seconds=1.0)
    made = PipelineMetrics(registry, ALIGNMENT)
    steps = [step for number in (1, 2) for step in self_improvement_steps(caller, number)]
    made.declare_steps([*steps, *EvaluationSteps(caller, retrier).steps])
    return made


def verdicts(registry: CollectorRegistry, stage: str) -> dict[str, float | None]:
    name = "omnialign_alignment_comparisons_total"
    words = ("win", "tie", "loss", "abstain")
    return {word: registry.get_sample_value(name, {"stage": stage, "verdict": word}) for word in words}


def test_the_gates_verdicts_are_counted(metrics, registry):
    metrics.count_verdicts("verify", Counts(completed=6, abstained=1, measures={"kept": 3, "tied": 2, "lost": 1}))
    assert verdicts(registry, "verify") == {"win": 3, "tie": 2, "loss": 1, "abstain": 1}
    assert verdicts(registry, "evaluation") == {"win": 0, "tie": 0, "loss": 0, "abstain": 0}


def test_stages_that_compare_nothing_have_no_verdicts(metrics, registry):
    metrics.count_verdicts("critique", Counts(completed=6, abstained=1))
    assert verdicts(registry, "critique") == {"win": None, "tie": None, "loss": None, "abstain": None}


def test_every_stage_has_its_series_before_anything_happens(registry, pipeline_metrics):
    labels = {"stage": "answers-aligned", "outcome": "quarantined"}
    assert registry.get_sample_value("omnialign_alignment_records_total", labels) == 0
    assert registry.get_sample_value("omnialign_alignment_tokens_total", {"stage": "sample"}) == 0
    assert registry.get_sample_value("omnialign_alignment_tokens_total", {"stage": "sample-2"}) is None


def test_ends_are_counted_from_zero(pipeline_metrics, registry):
    pipeline_metrics.count_end(AlignmentJob.STATE_FAILED)
    states = ("succeeded", "failed", "cancelled")
    found = {s: registry.get_sample_value("omnialign_alignment_jobs_ended_total", {"state": s}) for s in states}
    assert found == {"succeeded": 0, "failed": 1, "cancelled": 0}
