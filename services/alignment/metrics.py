"""Prometheus metrics that only alignment jobs have. The names are promises: dashboards and alerts use them."""

from prometheus_client import CollectorRegistry, Counter, Gauge

from omnialign.v1 import alignment_service_pb2
from services.alignment.job import EVALUATION, VERIFY
from services.pipeline.counts import Counts

VERDICTS = {"kept": "win", "tied": "tie", "lost": "loss"}
"""Verdicts on the later answer, by the measure that counts them; `abstain` is counted apart."""
COMPARING = (VERIFY, EVALUATION)


class AlignmentMetrics:
    """The judge's verdicts, and the yield of the gate."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.comparisons = Counter(
            "omnialign_alignment_comparisons_total",
            "Answers compared by the judge in a stage, by verdict on the later one: win, tie, loss, abstain.",
            ("stage", "verdict"),
            registry=registry,
        )
        self.pair_yield = Gauge(
            "omnialign_alignment_pair_yield_ratio", "Share of tried refinements kept, newest job.", registry=registry
        )
        for stage in COMPARING:  # `rate` sees no increase in a series that appears with its first value
            for verdict in (*VERDICTS.values(), "abstain"):
                self.comparisons.labels(stage, verdict)

    def count_verdicts(self, step: str, counts: Counts) -> None:
        """Counts the verdicts of a chunk, if the step compares."""
        if step not in COMPARING:
            return
        for measure, verdict in VERDICTS.items():
            self.comparisons.labels(step, verdict).inc(counts.measure(measure))
        self.comparisons.labels(step, "abstain").inc(counts.abstained)

    def show_pairs(self, pairs: alignment_service_pb2.PairCounts) -> None:
        """Shows the share of tried refinements that passed the gate."""
        if pairs.tried:
            self.pair_yield.set(pairs.kept / pairs.tried)
