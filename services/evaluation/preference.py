"""How well a judge or a reward model tells the better of two annotated responses.

Each pair is judged in both orders, and a pair is judged if both answers could be read. A pair scores 1 if both orders
name the preferred response, 0 if both name the other one, and 1/2 for anything between, which is what a coin gets: a
judge that always prefers the first place is right half of the time, and flips on every pair.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from omnialign import statistics
from omnialign.errors import InvalidArgument
from services.evaluation.estimates import Estimate, estimate, only
from services.evaluation.samples import Counts, Outcome, Sample

ALL = ""
_EQUAL = 0


@dataclass(frozen=True)
class Judged:
    """What became of an annotated pair.

    `forward` is the place (1, 2, or 0 for equal) that the judge named with response 1 shown first, `backward` with
    response 2 shown first; None for an answer that could not be read. A reward model has no order: both follow from
    its two rewards.
    """

    item: str
    modality: str
    """The group of the pair in the report, such as `ti2t` or `audio`."""
    preferred: int
    """1 or 2: the response that people preferred."""
    forward: int | None = None
    backward: int | None = None
    failed: bool = False
    probability: float | None = None
    """The judge's probability, over both orders, that response 1 is better; None if it gives words alone."""


@dataclass(frozen=True)
class Calibration:
    """How far a judge's probabilities are the shares of pairs that people agree on, as in reports of reward models."""

    error: float
    curve: tuple[statistics.CalibrationBin, ...]


@dataclass(frozen=True)
class Accuracy:
    """How a judge does on some pairs. Rates are None where nothing was judged, or asked for."""

    counts: Counts
    accuracy: Estimate
    flip_rate: float | None
    """The share of judged pairs on which the two orders name different responses."""
    abstain_rate: float | None
    """The share of pairs with an answer that could not be read, among those that did not fail."""
    calibration: Calibration | None


def by_modality(pairs: Iterable[Judged], *, seed: int) -> dict[str, Accuracy]:
    """The accuracy on all pairs, under "", and on those of each modality. Raises InvalidArgument (PAIR_INVALID)."""
    groups: dict[str, list[Judged]] = {ALL: []}
    for pair in pairs:
        _check(pair)
        groups[ALL].append(pair)
        if pair.modality != ALL:
            groups.setdefault(pair.modality, []).append(pair)
    return {name: _accuracy(group, name, seed=seed) for name, group in sorted(groups.items())}


def _accuracy(pairs: Sequence[Judged], name: str, *, seed: int) -> Accuracy:
    chosen = [_chosen(pair) for pair in pairs]
    outcomes = zip(pairs, chosen, strict=True)
    sample = Sample(Outcome(pair.item, _score(pair, found), failed=pair.failed) for pair, found in outcomes)
    flips = [_EQUAL not in found and found[0] != found[1] for found in chosen if found is not None]
    asked = sample.counts.judged + sample.counts.abstained
    return Accuracy(
        counts=sample.counts,
        accuracy=estimate({f"accuracy/{name}": sample}, only, seed=seed),
        flip_rate=sum(flips) / len(flips) if flips else None,
        abstain_rate=sample.counts.abstained / asked if asked else None,
        calibration=_calibration([pair for pair in pairs if not pair.failed]),
    )


def _calibration(pairs: Sequence[Judged]) -> Calibration | None:
    known = [(pair.probability, pair.preferred == 1) for pair in pairs if pair.probability is not None]
    if not known:
        return None
    probabilities, preferred = np.array(known, dtype=np.float64).T
    curve = statistics.calibration_of_pairs(probabilities, preferred)
    return Calibration(statistics.calibration_error(curve), curve)


def _chosen(pair: Judged) -> tuple[int, int] | None:
    """The response (not the place) that each order names; None if an answer could not be read."""
    if pair.failed or pair.forward is None or pair.backward is None:
        return None
    return pair.forward, _EQUAL if pair.backward == _EQUAL else 3 - pair.backward


def _score(pair: Judged, chosen: tuple[int, int] | None) -> float | None:
    """1 or 0 if both orders name the same response, else 1/2."""
    if chosen is None:
        return None
    if chosen[0] != chosen[1] or chosen[0] == _EQUAL:
        return 0.5
    return float(chosen[0] == pair.preferred)


def _check(pair: Judged) -> None:
    places = (None, 0, 1, 2)
    is_share = pair.probability is None or 0 <= pair.probability <= 1
    if pair.preferred not in (1, 2) or pair.forward not in places or pair.backward not in places or not is_share:
        message = f"The judgement of {pair.item} has a place other than 0, 1 and 2, or a probability outside 0 to 1."
        raise InvalidArgument(message, reason="PAIR_INVALID", metadata={"item": pair.item})
