"""How many assessments of each benchmark are scores, and on how many the judge abstained."""

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter

from services.evaluation.benchmarks import BENCHMARKS
from services.evaluation.works import BENCHMARK
from services.pipeline.counts import Counts
from services.pipeline.kind import Record

OUTCOMES = ("scored", "abstained")


class EvaluationMetrics:
    """The outcomes of assessments."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.assessments = Counter(
            "omnialign_evaluation_assessments_total",
            "Assessments of answers, by benchmark and outcome: scored, abstained.",
            ("benchmark", "outcome"),
            registry=registry,
        )
        for name in BENCHMARKS:  # `rate` sees no increase in a series that appears with its first value
            for outcome in OUTCOMES:
                self.assessments.labels(name, outcome)

    def count(self, counts: Counts) -> None:
        """Counts the assessments of a chunk."""
        for name in BENCHMARKS:
            for outcome in OUTCOMES:
                self.assessments.labels(name, outcome).inc(counts.measure(f"{name}/{outcome}"))


def assessment_measures(record: Record) -> Mapping[str, int]:
    """How many of a record's assessments had which outcome."""
    name = record.labels[BENCHMARK].partition("-")[0]
    found = record.responses[-1].assessments
    abstained = sum(bool(a.abstain_reason) for a in found)
    return {f"{name}/scored": len(found) - abstained, f"{name}/abstained": abstained}
