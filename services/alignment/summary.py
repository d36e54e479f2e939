"""What an alignment job shows of itself beyond what every job shows: the fate of its pairs, and its win rates.

In the job they are sums over committed chunks, so they are right after any restart; the metrics count what this process
did. The names of metrics are promises: dashboards and alerts use them.
"""

from collections.abc import Mapping, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge

from omnialign.v1 import alignment_service_pb2
from services.alignment.evaluation_steps import CORRECT_LABELS
from services.alignment.job import (
    CRITIQUE,
    EVALUATE,
    EVALUATION,
    LOOP_STAGES,
    ROUNDS,
    SAMPLE,
    VERIFY,
    Job,
    StageStatus,
    of_round,
)
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
    numbers = [number for number in ROUNDS if any(s.stage == of_round(SAMPLE, number) for s in job.stages)]
    for number in numbers:
        _set_expected(job, number)
    _set_pairs(job, totals, numbers)
    _set_evaluation(stage_of(job, EVALUATE), totals.get(EVALUATION, Counts()))


def _set_expected(job: Job, number: int) -> None:
    """A stage of a round expects what the stage before it let through."""
    expected = stage_of(job, of_round(SAMPLE, number)).total
    for stage in LOOP_STAGES:
        if not expected:  # not planned yet, or nothing is left
            return
        status = stage_of(job, of_round(stage, number))
        status.total = expected
        # Only a critic's abstention takes the record out; a judge's is a verdict.
        expected -= status.quarantined + (status.abstained if stage == CRITIQUE else 0)


def _set_pairs(job: Job, totals: Mapping[str, Counts], numbers: Sequence[int]) -> None:
    """Sets the pairs of all rounds together, and the verdicts of each gate."""
    gate = Counts()
    for number in numbers:
        verify, critique = (totals.get(of_round(stage, number), Counts()) for stage in (VERIFY, CRITIQUE))
        gate.add(verify)
        gate.abstained += critique.abstained
        for name in VERDICTS:
            if verify.chunks:
                stage_of(job, of_round(VERIFY, number)).metrics[name] = verify.measure(name)
    if not gate.chunks:
        return
    pairs = job.pairs
    pairs.kept, pairs.tied, pairs.lost = (gate.measure(name) for name in ("kept", "tied", "lost"))
    pairs.abstained = gate.abstained
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
