"""Scores with intervals, and two models compared on the same items.

A statistic maps the means of parts to a score, such as `composites.amg`. Items are resampled within each part, so parts
of a benchmark keep their sizes, and every part has random numbers of its own.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from omnialign import statistics
from services.evaluation.samples import Sample, distinct

Statistic = Callable[[Mapping[str, Any]], Any]
Interval = tuple[float, float]
FLIPS = 9999
MIN_ITEMS = 2
"""With fewer items in a part there is nothing to resample, and no interval."""
EQUAL = 1e-9
"""Differences this close are the same but for rounding."""


@dataclass(frozen=True)
class Estimate:
    """A score with its 95 % interval; None for what cannot be had from the items that were judged."""

    value: float | None
    interval: Interval | None


@dataclass(frozen=True)
class Comparison:
    """The second model against the first, on the items with scores of both; None for what these do not tell."""

    difference: float | None
    """The score of the second less that of the first."""
    interval: Interval | None
    p_value: float | None
    """How often a difference at least as large comes about when the models' names on each item are tossed up."""
    paired: int
    """Items with scores of both models."""
    unpaired: int
    """Items with scores of one model alone, which are left out."""


def only(parts: Mapping[str, Any]) -> Any:
    """The statistic of a single part: its mean."""
    (value,) = parts.values()
    return value


def estimate(parts: Mapping[str, Sample], statistic: Statistic, *, seed: int) -> Estimate:
    """A statistic of the means of parts. What the statistic raises for parts that are missing goes on."""
    means = {name: sample.mean for name, sample in parts.items()}
    if any(mean is None for mean in means.values()):
        return Estimate(None, None)
    interval = None
    if all(len(sample) >= MIN_ITEMS for sample in parts.values()):
        resampled = {name: _resampled_mean(sample, seed=seed, name=name) for name, sample in parts.items()}
        interval = statistics.interval(statistic(resampled))
    return Estimate(float(statistic(means)), interval)


def compare(
    first: Mapping[str, Sample], second: Mapping[str, Sample], statistic: Statistic, *, seed: int
) -> Comparison:
    """Two models by a statistic: a paired bootstrap interval of the difference, and a two-sided sign-flip test.

    A part that only one of the models has is left out of both, so the statistic says if it is needed.
    """
    pairs = {name: _Pairs(first[name], second[name], name=name) for name in first if name in second}
    paired = sum(len(part) for part in pairs.values())
    items = sum(len(first[name]) + len(second[name]) for name in pairs)
    counts = {"paired": paired, "unpaired": items - 2 * paired}
    if not all(map(len, pairs.values())):
        return Comparison(None, None, None, **counts)

    def difference(means: Mapping[str, tuple[Any, Any]]) -> Any:
        sides = [statistic({name: pair[side] for name, pair in means.items()}) for side in (0, 1)]
        return sides[1] - sides[0]

    found = float(difference({name: part.means() for name, part in pairs.items()}))
    if any(len(part) < MIN_ITEMS for part in pairs.values()):
        return Comparison(found, None, None, **counts)
    resampled = difference({name: part.resampled(seed) for name, part in pairs.items()})
    flipped = np.abs(difference({name: part.flipped(seed) for name, part in pairs.items()}))
    as_large = int(np.count_nonzero(flipped >= abs(found) - EQUAL))
    return Comparison(found, statistics.interval(resampled), (1 + as_large) / (1 + FLIPS), **counts)


def _resampled_mean(sample: Sample, *, seed: int, name: str) -> NDArray[np.float64]:
    if (seed, name) not in sample.resampled:
        rows, counts = distinct(sample.sums)
        totals = statistics.resampled_sums(rows, counts, statistics.stream(seed, name))
        sample.resampled[seed, name] = np.asarray(totals[:, 0] / totals[:, 1])
    return sample.resampled[seed, name]


class _Pairs:
    """The items of a part with scores of both models, those that are alike together."""

    def __init__(self, first: Sample, second: Sample, *, name: str) -> None:
        self._name = name
        self.rows, self.counts = distinct(np.hstack(paired(first, second)))

    def __len__(self) -> int:
        return int(self.counts.sum())

    def means(self) -> tuple[Any, Any]:
        """The mean of each model."""
        return _means(self.counts @ self.rows)

    def resampled(self, seed: int) -> tuple[Any, Any]:
        """The means in bootstrap samples of the items."""
        return _means(statistics.resampled_sums(self.rows, self.counts, statistics.stream(seed, self._name)))

    def flipped(self, seed: int) -> tuple[Any, Any]:
        """The means with the models' names tossed up for each item."""
        random = statistics.stream(seed, f"{self._name}/flips")
        others = self.rows[:, [2, 3, 0, 1]]

        def draw(count: int) -> NDArray[np.float64]:
            swapped = random.binomial(self.counts, 0.5, size=(count, len(self.counts)))
            return np.asarray((self.counts - swapped) @ self.rows + swapped @ others)

        return _means(statistics.in_blocks(draw, FLIPS, width=len(self.counts)))


def paired(first: Sample, second: Sample) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The sums of both, `Sample.sums`, of the items with scores of both."""
    _, places, others = np.intersect1d(first.keys, second.keys, return_indices=True)
    return first.sums[places], second.sums[others]


def _means(sums: NDArray[np.float64]) -> tuple[Any, Any]:
    """The mean of each model, from sums and numbers of scores: (..., 4)."""
    return sums[..., 0] / sums[..., 1], sums[..., 2] / sums[..., 3]
