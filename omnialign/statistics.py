"""Numbers that several reports have: intervals by resampling, calibration, and rank correlation.

Intervals are percentile bootstraps over items. A measure depends only on which of a few outcomes each item had (a
score, a verdict, a pair of marks), so resampling items is the same as drawing the outcome counts from a multinomial:
exact, paired where an outcome holds the marks of two models, and its cost does not grow with the number of items.
"""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000
PERCENTILES = (2.5, 97.5)
NUM_BINS = 10
BLOCK = 2**20
"""Numbers that are drawn at once, 8 bytes each: with scores that all differ, there are as many outcomes as items."""


@dataclass(frozen=True)
class CalibrationBin:
    """The predictions whose probability lies in one tenth."""

    count: int
    predicted: float
    """Mean probability."""
    observed: float
    """Share of them that came true."""


def stream(seed: int, name: str) -> np.random.Generator:
    """The random numbers of one measure: the same for the same seed, whatever else is measured beside it."""
    return np.random.default_rng([seed, zlib.crc32(name.encode())])


def resample(counts: NDArray[np.int64], random: np.random.Generator) -> NDArray[np.int64]:
    """The outcome counts of `RESAMPLES` bootstrap samples of the same size: (RESAMPLES, outcomes)."""
    total = int(counts.sum())
    return random.multinomial(total, counts / total, size=RESAMPLES)


def resampled_sums(
    rows: NDArray[np.float64], counts: NDArray[np.int64], random: np.random.Generator
) -> NDArray[np.float64]:
    """The sums of `rows` (outcomes, columns) in `RESAMPLES` bootstrap samples of items of which `counts` (outcomes,)
    have each: (RESAMPLES, columns)."""
    total = int(counts.sum())

    def draw(count: int) -> NDArray[np.float64]:
        return np.asarray(random.multinomial(total, counts / total, size=count) @ rows)

    return in_blocks(draw, RESAMPLES, width=len(counts))


def in_blocks(draw: Callable[[int], NDArray[np.float64]], count: int, *, width: int) -> NDArray[np.float64]:
    """`count` rows that `draw` makes, so many at once that about `BLOCK` numbers are drawn, `width` for each row."""
    size = max(1, BLOCK // width)
    return np.concatenate([draw(min(size, count - start)) for start in range(0, count, size)])


def interval(estimates: NDArray[np.float64]) -> tuple[float, float]:
    """The bounds of the 95 % interval, from the estimates of the bootstrap samples."""
    low, high = np.percentile(estimates, PERCENTILES)
    return float(low), float(high)


def calibration_of_pairs(
    probabilities: NDArray[np.float64], preferred: NDArray[np.float64]
) -> tuple[CalibrationBin, ...]:
    """The bins that hold pairs, from low to high probability.

    `probabilities` (pairs,) are those that the first answer is the better one, `preferred` (pairs,) is 1 where it is
    and 0 where it is not. Every pair counts in both orders: which answer is called the first says nothing.
    """
    predicted = np.concatenate([probabilities, 1 - probabilities])
    observed = np.concatenate([preferred, 1 - preferred])
    numbers = np.minimum((predicted * NUM_BINS).astype(int), NUM_BINS - 1)
    return tuple(
        CalibrationBin(int(inside.sum()), float(predicted[inside].mean()), float(observed[inside].mean()))
        for number in range(NUM_BINS)
        if (inside := numbers == number).any()
    )


def calibration_error(bins: Sequence[CalibrationBin]) -> float:
    """Mean distance of predicted from observed, weighted by the bins' counts (ECE; Naeini et al. 2015)."""
    total = sum(found.count for found in bins)
    return sum(found.count * abs(found.predicted - found.observed) for found in bins) / total


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Spearman's ρ of as many scores as there are others, ties at their mean rank; None if either are all the same."""
    if len(set(first)) < 2 or len(set(second)) < 2:
        return None
    return float(np.corrcoef(_ranks(first), _ranks(second))[0, 1])


def _ranks(values: Sequence[float]) -> NDArray[np.float64]:
    _, places, counts = np.unique(np.array(values, dtype=np.float64), return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(counts) - (counts - 1) / 2)[places])
