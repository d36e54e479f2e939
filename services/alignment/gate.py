"""The gate: which annotated pairs calibrate it, what they say, and what it makes of a comparison.

Its rule is the calibrated probability that the refinement is better. Where that cannot be had, or cannot be as precise
as the job demands, the judge's words decide, and the job says why.
"""

import heapq
import math
from collections.abc import Iterable, Sequence

from omnialign.v1 import alignment_service_pb2, record_pb2
from services.alignment import calibration
from services.alignment.calibration import MIN_PAIRS, MIN_SHARE, Calibration, Yield
from services.alignment.job import Spec, calibrates
from services.pipeline import planning

Record = record_pb2.Record
Comparison = record_pb2.Comparison
GateCalibration = alignment_service_pb2.GateCalibration

MAX_PAIRS = 500
"""More pairs would tell little more, and cost the judge as many to learn from."""


class Holdout:
    """Those of the records with a preference that the judge does not learn from; none if they would be too few."""

    def __init__(self, plan: Spec) -> None:
        self._plan = plan
        self.preferences = 0
        """Records with a preference so far."""
        self._last: list[tuple[int, str, str]] = []  # a heap of hash, id and subtask

    def add(self, record_id: str, subtask: str) -> None:
        """Takes in a record with a preference, in any order."""
        self.preferences += 1
        # The feedback model's share is the first of the same order, so it overlaps with these as little as it can.
        place = planning.record_seed(self._plan.seed, stage="subset", record_id=record_id)
        (heapq.heappush if len(self._last) < MAX_PAIRS else heapq.heappushpop)(self._last, (place, record_id, subtask))

    def close(self) -> dict[str, str]:
        """The subtasks of those that are held out, by id and in order of id."""
        if not (calibrates(self._plan) and is_enough(self._plan, self.preferences)):
            return {}
        count = min(planning.share(self.preferences, fraction=self._plan.gate_holdout_fraction), MAX_PAIRS)
        return dict(sorted((record_id, subtask) for _, record_id, subtask in heapq.nlargest(count, self._last)))


def is_enough(plan: Spec, preferences: int) -> bool:
    """Whether the share to be held out of so many annotated preferences can calibrate the gate."""
    return planning.share(preferences, fraction=plan.gate_holdout_fraction) >= MIN_PAIRS


def uncalibrated(plan: Spec, preferences: int) -> GateCalibration:
    """The gate of a job with so few annotated preferences that none are held out."""
    count = planning.share(preferences, fraction=plan.gate_holdout_fraction)
    why = (
        f"{plan.gate_holdout_fraction:g} of {preferences} annotated preferences are {count} pairs, and it takes "
        f"{MIN_PAIRS} to calibrate a probability"
    )
    return _words(GateCalibration(precision=plan.gate_precision), "TOO_FEW_PAIRS", why)


def decides_by_probability(gate: GateCalibration) -> bool:
    """Whether a gate decides by probability, and not by the judge's words."""
    return bool(gate.rule == GateCalibration.RULE_PROBABILITY)


def decide(gate: GateCalibration, comparison: Comparison) -> None:
    """Sets the probability and the verdict of a comparison, if the gate decides by probability.

    A comparison without margins stays as it is: nobody was asked, or the judge's answer could not be read.
    """
    margin = margin_of(comparison)
    if margin is None or not decides_by_probability(gate):
        return
    comparison.probability = calibration.probability(gate.slope, margin)
    if comparison.probability >= gate.threshold:
        comparison.verdict = record_pb2.VERDICT_WIN
    elif calibration.probability(gate.slope, -margin) >= gate.threshold:
        comparison.verdict = record_pb2.VERDICT_LOSS
    else:
        comparison.verdict = record_pb2.VERDICT_TIE


def margin_of(comparison: Comparison) -> float | None:
    """The mean margin of both orders, in nats; None if there is none."""
    if not (comparison.HasField("forward_margin") and comparison.HasField("backward_margin")):
        return None
    margin = (comparison.forward_margin + comparison.backward_margin) / 2
    return margin if math.isfinite(margin) else None


def calibrate(records: Iterable[Record], *, precision: float) -> GateCalibration:
    """The gate that held-out comparisons make; in each, the candidate is the response that people preferred."""
    compared = sorted(records, key=lambda record: (record.subtask, record.id))
    weighed = [(margin, r.comparison) for r in compared if (margin := margin_of(r.comparison)) is not None]
    margins = [margin for margin, _ in weighed]
    found = calibration.calibrate(margins, precision=precision)
    gate = GateCalibration(
        precision=precision,
        pairs=len(margins),
        slope=found.slope,
        accuracy=found.accuracy,
        by_probability=_yield(found.held_out),
        by_words=_yield(_yield_of_words([comparison for _, comparison in weighed])),
    )
    for one in found.reliability:
        gate.reliability.add(count=one.count, predicted=one.predicted, observed=one.observed)
    return _with_rule(gate, found, compared=len(compared))


def _with_rule(gate: GateCalibration, found: Calibration, *, compared: int) -> GateCalibration:
    """Adds what decides, and why."""
    reach = f"{gate.precision:.0%} precision"
    known = f"on {gate.pairs} held-out pairs the judge is right {gate.accuracy:.0%} of the time"
    if compared and not gate.pairs:
        return _words(gate, "NO_MARGINS", "the judge gives no log-probabilities of its verdicts")
    if gate.pairs < MIN_PAIRS:
        return _words(gate, "TOO_FEW_PAIRS", f"only {gate.pairs} held-out pairs could be judged, of {MIN_PAIRS} needed")
    if found.threshold is None or found.held_out.share < MIN_SHARE:
        why = f"{known}, and less than {MIN_SHARE:.0%} of them can be decided with {reach}; a lower gate_precision can"
        return _words(gate, "PRECISION_OUT_OF_REACH", why)
    gate.rule, gate.threshold = GateCalibration.RULE_PROBABILITY, found.threshold
    gate.message = f"A refinement passes with a probability of at least {found.threshold:.3f}, for {reach}: {known}."
    return gate


def _words(gate: GateCalibration, reason: str, why: str) -> GateCalibration:
    gate.rule, gate.reason = GateCalibration.RULE_WORDS, reason
    gate.message = f"The judge's words decide at the gate: {why}."
    return gate


def _yield_of_words(comparisons: Sequence[Comparison]) -> Yield:
    decided = [c for c in comparisons if c.verdict in (record_pb2.VERDICT_WIN, record_pb2.VERDICT_LOSS)]
    right = sum(c.verdict == record_pb2.VERDICT_WIN for c in decided)
    share = len(decided) / len(comparisons) if comparisons else 0.0
    return Yield(share, right / len(decided) if decided else None)


def _yield(found: Yield) -> alignment_service_pb2.RuleYield:
    return alignment_service_pb2.RuleYield(share=found.share, precision=found.precision)
