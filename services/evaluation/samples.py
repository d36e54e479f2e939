"""What judging one part of a benchmark gave: scores by item, and how many there are not.

An abstention or a failure is never a number: it is counted beside the scores, and a part without any score has no mean.
"""

import hashlib
import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from omnialign.errors import InvalidArgument

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Counts:
    """How many of the scores that were asked for there are."""

    judged: int = 0
    abstained: int = 0
    failed: int = 0


class Sample:
    """The outcomes of one part of a benchmark.

    An item may have several scores, such as one for each question about its medium. The mean weighs each score alike,
    while items are what is resampled: the scores of one item stand or fall with its medium. Of an item with scores, 20
    bytes are kept.
    """

    def __init__(self) -> None:
        self._keys, self._totals, self._numbers = array("Q"), array("d"), array("I")
        self._judged = self._abstained = 0
        self.failed = 0
        """Scores that there are not because there is no answer to judge, or no judge to ask."""
        self.resampled: dict[tuple[int, str], Floats] = {}
        """The means in bootstrap samples of the items, by seed and name: a part may be in several scores."""

    def add(self, item: str, scores: Sequence[float], *, abstained: int = 0) -> None:
        """Takes in an item, once: its scores, and on how many the judge abstained.

        Raises InvalidArgument (SCORE_INVALID) for a score that is not finite.
        """
        for score in scores:
            if not math.isfinite(score):
                raise _invalid(item, score)
        self._abstained += abstained
        if scores:
            self._keys.append(key_of(item))
            self._totals.append(math.fsum(scores))
            self._numbers.append(len(scores))
            self._judged += len(scores)

    @property
    def keys(self) -> NDArray[np.uint64]:
        """The key of each item with a score, `key_of`."""
        return np.array(self._keys, dtype=np.uint64)

    @property
    def totals(self) -> Floats:
        """The sum of the scores of each of these items."""
        return np.array(self._totals, dtype=np.float64)

    @property
    def numbers(self) -> NDArray[np.uint32]:
        """The number of scores of each of these items."""
        return np.array(self._numbers, dtype=np.uint32)

    @property
    def means(self) -> Floats:
        """The mean score of each of these items."""
        return self.totals / self.numbers

    @property
    def sums(self) -> Floats:
        """The sum and the number of the scores of each of these items: (items, 2)."""
        return np.stack([self.totals, self.numbers], axis=1)

    @property
    def counts(self) -> Counts:
        """How many scores there are, and how many there are not."""
        return Counts(self._judged, self._abstained, self.failed)

    def __len__(self) -> int:
        """The number of items with a score."""
        return len(self._keys)

    @property
    def mean(self) -> float | None:
        """The mean of the scores; None if there is none."""
        return math.fsum(self._totals) / self._judged if self._judged else None


def key_of(item: str) -> int:
    """64 bits that stand for the id of an item: of a million ids, two have the same with a probability of 3e-8."""
    return int.from_bytes(hashlib.blake2b(item.encode(), digest_size=8).digest(), "big")


def distinct(rows: Floats) -> tuple[Floats, NDArray[np.int64]]:
    """The different rows, and how many items have each."""
    found, counts = np.unique(rows, axis=0, return_counts=True)
    return found, counts


def _invalid(item: str, score: float) -> InvalidArgument:
    message = f"The score of {item} is {score}: a score is a finite number."
    return InvalidArgument(message, reason="SCORE_INVALID", metadata={"item": item})
