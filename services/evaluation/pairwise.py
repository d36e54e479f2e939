"""Order-swapped comparisons: the points of verdicts, and Bradley-Terry over several models.

Bradley-Terry gives each model a strength s with P(a beats b) = 1 / (1 + exp(s_b - s_a)); a tie counts as half a win of
each side (R. A. Bradley and M. E. Terry, 1952). The likelihood has a maximum exactly if, however the models are split
in two, some model of each side took points from the other side (L. R. Ford, 1957). Intervals are Wald's, from the
covariance that allows for models being compared on the same items (the sandwich, items as clusters): a bootstrap would
draw samples in which some model loses nothing, whose strength is infinite.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from omnialign.errors import FailedPrecondition, InvalidArgument
from omnialign.v1 import record_pb2
from services.evaluation.estimates import Interval

POINTS: Mapping[int, float] = {record_pb2.VERDICT_WIN: 1.0, record_pb2.VERDICT_TIE: 0.5, record_pb2.VERDICT_LOSS: 0.0}
Z = NormalDist().inv_cdf(0.975)
MAX_STEPS = 100
MAX_GRADIENT = 1e-10


@dataclass(frozen=True)
class Games:
    """Two models on the same items."""

    first: str
    second: str
    items: NDArray[np.uint64]
    """The key of each item, `samples.key_of`."""
    points: NDArray[np.float64]
    """Of the first on each item: 1 for a win, 1/2 for a tie, 0 for a loss."""


@dataclass(frozen=True)
class Strength:
    """A model's log-strength, 0 for the average model, with its 95 % interval."""

    value: float
    interval: Interval


def strengths(games: Sequence[Games]) -> dict[str, Strength]:
    """The Bradley-Terry strengths of all models, the strongest first.

    Raises InvalidArgument (GAME_INVALID), and FailedPrecondition: GAMES_MISSING, COMPARISONS_DISCONNECTED where groups
    of models were never compared, STRENGTHS_UNBOUNDED where a group took every point from the others.
    """
    names = sorted({name for played in games if len(played.items) for name in (played.first, played.second)})
    if not names:
        raise FailedPrecondition("There is no judged comparison to rank models by.", reason="GAMES_MISSING")
    number = {name: index for index, name in enumerate(names)}
    points = np.zeros((len(names), len(names)))
    games = [played for played in games if len(played.items)]
    for played in games:
        if played.first == played.second or not ((played.points >= 0) & (played.points <= 1)).all():
            message = f"{played.first} and {played.second} are not two models with 0 to 1 points for the first."
            raise InvalidArgument(message, reason="GAME_INVALID", metadata={"model": played.first})
        points[number[played.first], number[played.second]] += played.points.sum()
        points[number[played.second], number[played.first]] += (1 - played.points).sum()
    _check_bounded(points, names)
    values = _maximum(points)
    errors = np.sqrt(np.diag(_covariance(games, number, values, points)))
    order = sorted(range(len(names)), key=lambda index: -values[index])
    return {names[i]: Strength(values[i], (values[i] - Z * errors[i], values[i] + Z * errors[i])) for i in order}


def probability(stronger: float, weaker: float) -> float:
    """The probability that a model of the first log-strength beats one of the second."""
    return float(1 / (1 + np.exp(weaker - stronger)))


def _maximum(points: NDArray[np.float64]) -> list[float]:
    """The log-strengths of greatest likelihood, which is concave: Newton's method with halved steps."""
    values = np.zeros(len(points))
    for _ in range(MAX_STEPS):
        gradient, information = _gradient(points, values), _information(points, values)
        if np.abs(gradient).max() < MAX_GRADIENT * points.sum():
            break
        step, before = np.linalg.pinv(information) @ gradient, _likelihood(points, values)
        while _likelihood(points, values + step) < before and np.abs(step).max() > MAX_GRADIENT:
            step /= 2
        values = values + step
    return [float(value) for value in values - values.mean()]


def _beats(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(1 / (1 + np.exp(values[None, :] - values[:, None])))


def _likelihood(points: NDArray[np.float64], values: NDArray[np.float64]) -> float:
    return -float((points * np.logaddexp(0, values[None, :] - values[:, None])).sum())


def _gradient(points: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray((points - (points + points.T) * _beats(values)).sum(axis=1))


def _information(points: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    beats = _beats(values)
    weights = (points + points.T) * beats * beats.T
    return np.asarray(np.diag(weights.sum(axis=1)) - weights)


def _covariance(
    games: Sequence[Games], number: Mapping[str, int], values: Sequence[float], points: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The covariance of the strengths about their mean: inverse information, item scores squared, and again."""
    at = np.array(values)
    beats, items = _beats(at), np.unique(np.concatenate([played.items for played in games]))
    scores = np.zeros((len(items), len(at)))
    for played in games:
        first, second = number[played.first], number[played.second]
        surprise, rows = played.points - beats[first, second], np.searchsorted(items, played.items)
        np.add.at(scores[:, first], rows, surprise)
        np.add.at(scores[:, second], rows, -surprise)
    inverse = np.linalg.pinv(_information(points, at))  # about the mean: the information knows no common shift
    return np.asarray(inverse @ (scores.T @ scores) @ inverse)


def _check_bounded(points: NDArray[np.float64], names: Sequence[str]) -> None:
    """Raises COMPARISONS_DISCONNECTED, STRENGTHS_UNBOUNDED."""
    met = _reachable(points + points.T)
    if not met.all():
        groups = sorted({tuple(name for name, there in zip(names, row, strict=True) if there) for row in met})
        named = " | ".join(", ".join(group) for group in groups)
        message = f"These groups of models were never compared with each other: {named}; compare a model of each."
        raise FailedPrecondition(message, reason="COMPARISONS_DISCONNECTED", metadata={"groups": named})
    above = _reachable(points)
    unbeaten = sorted(name for name, row, column in zip(names, above, above.T, strict=True) if (column <= row).all())
    if not above.all():
        named = ", ".join(unbeaten)
        message = f"No other model took a point from {named}, so no strength is finite: compare on more items."
        raise FailedPrecondition(message, reason="STRENGTHS_UNBOUNDED", metadata={"models": named})


def _reachable(edges: NDArray[np.float64]) -> NDArray[np.bool_]:
    """From which model (row) which other (column) is reached over edges."""
    found = (edges > 0) | np.eye(len(edges), dtype=bool)
    for middle in range(len(edges)):
        found |= found[:, [middle]] & found[[middle], :]
    return found
