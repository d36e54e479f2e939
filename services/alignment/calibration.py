"""The calibration of the gate: from a judge's margins to the probability that a response is better.

A margin is by how much a judge would rather call the candidate better than the baseline, averaged over both orders
(`Comparison`). Annotated pairs that the judge was not trained on say what it is worth: p = σ(b · margin), with b by
logistic regression (Platt 1999). There is no intercept, because exchanging the two responses changes the sign of a
margin and nothing else. A pair passes if p is at or above a threshold, the lowest one at which the held-out pairs that
pass it, in whichever order, are right as often as the gate demands.

Pure: margins in, numbers out. In every list of margins the candidate is the response that people preferred, so that a
judge is right where its margin is positive.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from omnialign.statistics import CalibrationBin, calibration_of_pairs

MIN_PAIRS = 50
"""With fewer pairs a precision is a guess, and the judge needs them to learn from."""
MIN_SHARE = 0.25
"""Share of the held-out pairs that must pass: a threshold that few pass was chosen by a handful, and a gate that keeps
next to nothing wastes what it guards."""
NUM_FOLDS = 5
BISECTIONS = 100
ROUNDING = 1e-9
"""Margins in nats that are all below this say nothing."""

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Yield:
    """What a rule does to pairs of which people said which response is better."""

    share: float
    """Pairs that it decides, in either direction, of all."""
    precision: float | None
    """Share of these that it decides rightly; None if it decides none."""


@dataclass(frozen=True)
class Calibration:
    """What a judge's margins are worth."""

    slope: float
    """b, per nat. Zero for a judge that knows nothing."""
    threshold: float | None
    """The least probability with which a pair passes; None if no threshold has the precision."""
    accuracy: float
    """Share of the pairs whose margin has the right sign; half of a zero counts."""
    held_out: Yield
    """By cross-validation: slope and threshold are chosen on four fifths of the pairs, and tried on the rest."""
    reliability: tuple[CalibrationBin, ...]
    """From low to high probability, by the same cross-validation."""


def calibrate(margins: Sequence[float], *, precision: float) -> Calibration:
    """Calibrates a judge on its margins, which must be finite, in an order that depends on nothing but the pairs."""
    found = np.asarray(margins, dtype=np.float64)  # (pairs,)
    slope = fit_slope(found)
    folds = np.arange(len(found)) % NUM_FOLDS
    probabilities, passes = np.full(len(found), 0.5), np.zeros(len(found), dtype=bool)  # (pairs,)
    for fold in range(NUM_FOLDS):
        inside = folds == fold
        fitted = fit_slope(found[~inside])
        limit = find_threshold(sigmoid(fitted * found[~inside]), precision=precision)
        probabilities[inside] = sigmoid(fitted * found[inside])
        passes[inside] = limit is not None and confidence(probabilities[inside]) >= limit
    return Calibration(
        slope=slope,
        threshold=find_threshold(sigmoid(slope * found), precision=precision),
        accuracy=float((np.sign(found) + 1).mean() / 2) if len(found) else 0.5,
        held_out=yield_of(passes, right=found > 0),
        reliability=calibration_of_pairs(probabilities, np.ones(len(found))),
    )


def fit_slope(margins: Numbers) -> float:
    """The slope b ≥ 0 of p = σ(b · margin), with Platt's smoothed targets; finite for any finite margins."""
    scale = float(np.abs(margins).max(initial=0.0))
    if scale < ROUNDING:
        return 0.0
    x, target = margins / scale, (len(margins) + 1) / (len(margins) + 2)

    def gradient(slope: float) -> float:
        return float((x * (sigmoid(slope * x) - target)).sum())

    # The loss is convex in b, and its gradient is positive for a large b because no target is quite 0 or 1.
    low, high = 0.0, 1.0
    if gradient(low) >= 0:  # the judge is no better than chance
        return 0.0
    while gradient(high) < 0:
        high *= 2
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if gradient(middle) < 0 else (low, middle)
    return low / scale


def find_threshold(probabilities: Numbers, *, precision: float) -> float | None:
    """The lowest threshold above one half at which the pairs that pass are right often enough; None if there is none.

    `probabilities` are those that the preferred responses are better.
    """
    sure, right = confidence(probabilities), probabilities > 0.5
    levels = np.unique(sure[sure > 0.5])
    return next((float(level) for level in levels if right[sure >= level].mean() >= precision), None)


def yield_of(passes: NDArray[np.bool_], *, right: NDArray[np.bool_]) -> Yield:
    """The yield of a rule that decides the pairs in `passes`, and is right about those in `right`."""
    share = float(passes.mean()) if len(passes) else 0.0
    return Yield(share, float(right[passes].mean()) if passes.any() else None)


def confidence(probabilities: Numbers) -> Numbers:
    """The probability of the likelier of two responses, whichever it is."""
    return np.maximum(probabilities, 1 - probabilities)


def sigmoid(x: Numbers) -> Numbers:
    """1 / (1 + exp(-x)), without overflow."""
    return np.asarray(np.exp(-np.logaddexp(0, -x)))


def probability(slope: float, margin: float) -> float:
    """The probability that the candidate is better, given the margin."""
    return math.exp(-float(np.logaddexp(0, -slope * margin)))
