"""What judging one part of a benchmark gave: scores by item, and how many there are not.

An abstention or a failure is never a number: it is counted beside the scores, and a part without any score has no mean.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from omnialign.errors import FailedPrecondition, InvalidArgument


@dataclass(frozen=True)
class Outcome:
    """One score that was asked for: of an item, or of one of the item's questions."""

    item: str
    score: float | None = None
    """None if the judge abstained, or if the work failed."""
    failed: bool = False
    """Whether there is no answer to judge, or no judge to ask."""


@dataclass(frozen=True)
class Counts:
    """How many of the scores that were asked for there are."""

    judged: int = 0
    abstained: int = 0
    failed: int = 0


class Sample:
    """The outcomes of one part of a benchmark.

    An item may have several scores, such as one for each question about its medium. The mean weighs each score alike,
    while items are what is resampled: the scores of one item stand or fall with its medium.
    """

    def __init__(self, outcomes: Iterable[Outcome]) -> None:
        """Raises InvalidArgument (SCORE_INVALID) for a score that is not finite, or that failed all the same."""
        scores: dict[str, list[float]] = {}
        abstained = failed = 0
        for outcome in outcomes:
            if outcome.score is None:
                failed, abstained = failed + outcome.failed, abstained + (not outcome.failed)
            elif outcome.failed or not math.isfinite(outcome.score):
                raise _invalid(outcome)
            else:
                scores.setdefault(outcome.item, []).append(outcome.score)
        self.sums: Mapping[str, tuple[float, int]] = {
            item: (math.fsum(found), len(found)) for item, found in sorted(scores.items())
        }
        """For each item with a score, the sum and the number of its scores."""
        self.counts = Counts(sum(count for _, count in self.sums.values()), abstained, failed)
        self.resampled: dict[tuple[int, str], NDArray[np.float64]] = {}
        """The means in bootstrap samples of the items, by seed and name: a part may be in several scores."""

    @property
    def mean(self) -> float | None:
        """The mean of the scores; None if there is none."""
        if not self.counts.judged:
            return None
        return math.fsum(total for total, _ in self.sums.values()) / self.counts.judged


def check_judged(parts: Mapping[str, Sample]) -> None:
    """Raises FailedPrecondition (NOTHING_JUDGED), naming the parts in which no item has a score."""
    empty = {name: sample.counts for name, sample in parts.items() if not sample.counts.judged}
    if not empty:
        return
    named = "; ".join(f"{name}: {found.abstained} abstained, {found.failed} failed" for name, found in empty.items())
    message = f"There is no score to average in {named}: look at the judge's answers, or leave the parts out."
    raise FailedPrecondition(message, reason="NOTHING_JUDGED", metadata={"parts": ",".join(empty)})


def distinct(rows: Iterable[tuple[float, ...]]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The different rows, and how many items have each."""
    found, counts = np.unique(np.array(list(rows), dtype=np.float64), axis=0, return_counts=True)
    return found, counts


def _invalid(outcome: Outcome) -> InvalidArgument:
    message = f"The score of {outcome.item} is {outcome.score}: a score is a finite number, and a failure has none."
    return InvalidArgument(message, reason="SCORE_INVALID", metadata={"item": outcome.item})
