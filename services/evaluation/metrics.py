"""How many assessments of each benchmark are scores, on how many the judge abstained, and what was reused."""

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter

from services.evaluation.benchmarks import BENCHMARKS
from services.evaluation.job import ANSWER, SCORE
from services.evaluation.works import BENCHMARK
from services.pipeline.counts import Counts
from services.pipeline.kind import Record

OUTCOMES = ("scored", "abstained")


class EvaluationMetrics:
    """The outcomes of assessments, and the answers that nobody had to be asked for."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.assessments = Counter(
            "omnialign_evaluation_assessments_total",
            "Assessments of answers, by benchmark and outcome: scored, abstained.",
            ("benchmark", "outcome"),
            registry=registry,
        )
        self.reused = Counter(
            "omnialign_evaluation_reused_answers_total",
            "Answers of models (stage answer) and judges (stage score) that were kept from an earlier evaluation.",
            ("stage",),
            registry=registry,
        )
        for stage in (ANSWER, SCORE):
            self.reused.labels(stage)
        for name in BENCHMARKS:  # `rate` sees no increase in a series that appears with its first value
            for outcome in OUTCOMES:
                self.assessments.labels(name, outcome)

    def count(self, stage: str, counts: Counts) -> None:
        """Counts what a chunk committed in a stage."""
        self.reused.labels(stage).inc(counts.reused)
        for name in BENCHMARKS:
            for outcome in OUTCOMES:
                self.assessments.labels(name, outcome).inc(counts.measure(f"{name}/{outcome}"))


def assessment_measures(record: Record) -> Mapping[str, int]:
    """How many of a record's assessments had which outcome."""
    name = record.labels[BENCHMARK].partition("-")[0]
    found = record.responses[-1].assessments
    abstained = sum(bool(a.abstain_reason) for a in found)
    return {f"{name}/scored": len(found) - abstained, f"{name}/abstained": abstained}
