"""Numbers by 64-bit key, in twelve bytes each: a dictionary of as many Python integers takes ten times as much.

What is added together is a sorted run. Runs of similar size are merged, so that there are few of them to look into, and
a key is moved as often as there are powers of two in their number.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class Tally:
    """What was added to each key; 0 for one that is not there."""

    def __init__(self) -> None:
        self._runs: list[tuple[Array, Array]] = []

    def of(self, keys: Array) -> Array:
        """The sums of several keys."""
        found = np.zeros(len(keys), np.uint32)
        for held, numbers in self._runs:
            at = np.minimum(np.searchsorted(held, keys), len(held) - 1)
            found += np.where(held[at] == keys, numbers[at], np.uint32(0))
        return found

    def add(self, keys: Array, numbers: Array) -> None:
        """Adds to several keys, which are sorted and different from one another."""
        if not len(keys):
            return
        run = keys.astype(np.uint64), numbers.astype(np.uint32)
        while self._runs and len(self._runs[-1][0]) < 2 * len(run[0]):
            run = _merged(self._runs.pop(), run)
        self._runs.append(run)

    def counted(self, keys: Array) -> Array:
        """Adds one for each of the keys, in their order; what each had before."""
        if not len(keys):
            return np.zeros(0, np.uint32)
        unique, places, counts = np.unique(keys, return_inverse=True, return_counts=True)
        order = np.argsort(places, kind="stable")
        ranks = np.empty(len(keys), np.uint32)
        ranks[order] = np.arange(len(keys)) - np.repeat(np.cumsum(counts) - counts, counts)
        before = self.of(unique)[places] + ranks
        self.add(unique, counts)
        return before


def _merged(one: tuple[Array, Array], other: tuple[Array, Array]) -> tuple[Array, Array]:
    keys, numbers = np.concatenate([one[0], other[0]]), np.concatenate([one[1], other[1]])
    order = np.argsort(keys, kind="stable")  # finds the two sorted halves, and merges them
    keys, numbers = keys[order], numbers[order]
    starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
    if len(starts) == len(keys):
        return keys, numbers
    return keys[starts], np.add.reduceat(numbers, starts)
