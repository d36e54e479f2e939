"""Intervals by resampling, as every report has them: percentile bootstraps over items.

A measure depends only on which of a few outcomes each item had (a score, a verdict, a pair of marks), so resampling
items is the same as drawing the outcome counts from a multinomial: exact, paired where an outcome holds the marks of
two models, and its cost does not grow with the number of items.
"""

import zlib

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000
PERCENTILES = (2.5, 97.5)


def stream(seed: int, name: str) -> np.random.Generator:
    """The random numbers of one measure: the same for the same seed, whatever else is measured beside it."""
    return np.random.default_rng([seed, zlib.crc32(name.encode())])


def resample(counts: NDArray[np.int64], random: np.random.Generator) -> NDArray[np.int64]:
    """The outcome counts of `RESAMPLES` bootstrap samples of the same size: (RESAMPLES, outcomes)."""
    total = int(counts.sum())
    return random.multinomial(total, counts / total, size=RESAMPLES)


def interval(estimates: NDArray[np.float64]) -> tuple[float, float]:
    """The bounds of the 95 % interval, from the estimates of the bootstrap samples."""
    low, high = np.percentile(estimates, PERCENTILES)
    return float(low), float(high)
