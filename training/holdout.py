"""Rows held out: which they are, and how well a reward model does on them.

A row is held out by the hash of its prompt. So all rows of a prompt are on the same side, and a row stays on its side
in every run, whatever else is in the data.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from omnialign import statistics
from training.example_file import Examples

MIN_ROWS = 50
"""With fewer rows none is held out: an accuracy from five pairs says nothing, and they are needed to learn from."""
Z_95 = 1.959963984540054


@dataclass(frozen=True)
class Report:
    """How a reward model orders held-out pairs."""

    pairs: int
    accuracy: float
    """Share of pairs whose chosen answer has the higher reward; half of a tie counts."""
    accuracy_interval: tuple[float, float]
    """Wilson's interval at 95 %."""
    log_loss: float
    """Mean of -log σ(r_chosen - r_rejected); log 2 for a model that knows nothing."""
    calibration_error: float
    """Mean distance of σ(r_a - r_b) from the share of pairs in which a is preferred to b."""
    calibration: tuple[statistics.CalibrationBin, ...]
    """Every pair counts in both orders, or the observed share would always be 1."""

    def metrics(self) -> dict[str, float]:
        """The report in numbers for a job's progress."""
        names = ("pairs", "accuracy", "log_loss", "calibration_error")
        return {name: float(getattr(self, name)) for name in names}

    def document(self) -> dict[str, object]:
        """The report as a JSON object."""
        return asdict(self)


def split(examples: Examples, *, fraction: float) -> tuple[Examples, Examples]:
    """The examples to learn from, and those held out: about `fraction` of them, or none."""
    places = examples.prompt_hashes / 2.0**64  # in [0, 1)
    is_held = (places < fraction) & (len(examples) >= MIN_ROWS)
    if is_held.all():  # of data with a handful of prompts, all may fall on one side
        is_held[:] = False
    return examples.select(np.flatnonzero(~is_held)), examples.select(np.flatnonzero(is_held))


def report_of(ahead: Sequence[float]) -> Report:
    """The report on pairs, given by how far the chosen answers are ahead: r_chosen - r_rejected."""
    difference = np.asarray(ahead, dtype=np.float64)  # (pairs,)
    accuracy = float((np.sign(difference) + 1).mean() / 2)
    bins = statistics.calibration_of_pairs(np.exp(-np.logaddexp(0, -difference)), np.ones(len(difference)))
    return Report(
        pairs=len(difference),
        accuracy=accuracy,
        accuracy_interval=wilson(accuracy, len(difference)),
        log_loss=float(np.logaddexp(0, -difference).mean()),
        calibration_error=statistics.calibration_error(bins),
        calibration=bins,
    )


def wilson(share: float, count: int) -> tuple[float, float]:
    """Wilson's score interval of a share at 95 %."""
    spread = Z_95**2 / count
    middle = (share + spread / 2) / (1 + spread)
    half = Z_95 * math.sqrt(share * (1 - share) / count + spread / (4 * count)) / (1 + spread)
    return max(0.0, middle - half), min(1.0, middle + half)
