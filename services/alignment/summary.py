"""What an alignment job shows of itself beyond what every job shows: the fate of its pairs, and its win rates.

In the job they are sums over committed chunks, so they are right after any restart; the metrics count what this process
did. The names of metrics are promises: dashboards and alerts use them.
"""

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge

from omnialign.v1 import alignment_service_pb2
from services.alignment.evaluation_steps import CORRECT_LABELS
from services.alignment.job import CRITIQUE, EVALUATE, EVALUATION, LOOP_STAGES, SAMPLE, VERIFY, Job, StageStatus
from services.pipeline.counts import Counts
from services.pipeline.kind import stage_of

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


def summarize(job: Job, totals: Mapping[str, Counts]) -> None:
    """Sets how many records each stage expects, the fate of the pairs, and the rates of the evaluation."""
    _set_expected(job)
    _set_pairs(job, totals)
    _set_evaluation(stage_of(job, EVALUATE), totals.get(EVALUATION, Counts()))


def _set_expected(job: Job) -> None:
    """A stage of the loop expects what the stage before it let through."""
    expected = stage_of(job, SAMPLE).total
    for stage in LOOP_STAGES:
        if not expected:  # not planned yet, or nothing is left
            return
        status = stage_of(job, stage)
        status.total = expected
        # Only a critic's abstention takes the record out; a judge's is a verdict.
        expected -= status.quarantined + (status.abstained if stage == CRITIQUE else 0)


def _set_pairs(job: Job, totals: Mapping[str, Counts]) -> None:
    verify, critique = totals.get(VERIFY), totals.get(CRITIQUE, Counts())
    if verify is None:
        return
    pairs = job.pairs
    pairs.kept, pairs.tied, pairs.lost = (verify.measure(name) for name in ("kept", "tied", "lost"))
    pairs.abstained = verify.abstained + critique.abstained
    pairs.tried = pairs.kept + pairs.tied + pairs.lost + pairs.abstained


def _set_evaluation(status: StageStatus, counts: Counts) -> None:
    if status.state == StageStatus.STATE_DONE:
        status.total = status.completed + status.quarantined + status.abstained
    kept, tied, lost = (counts.measure(name) for name in ("kept", "tied", "lost"))
    compared = kept + tied + lost + counts.abstained
    if compared:
        status.metrics["win_rate"] = kept / compared
        status.metrics["tie_rate"] = tied / compared
        status.metrics["loss_rate"] = lost / compared
        status.metrics["abstain_rate"] = counts.abstained / compared
    if checked := counts.measure("checked"):
        for label in CORRECT_LABELS:
            status.metrics[label] = counts.measure(label) / checked
