"""What the numbers of a file mean: scores and the labels of the better response, checked as whole columns.

A scale can only be told from a whole column: of ratings from 1 to 5, those up to 3 would pass for ratings from 0 to 3.
So a column with more than a few values that are not expected refuses the file, unless the request declares the scale.
"""

import math
from dataclasses import dataclass, field
from typing import Any

from omnialign.errors import InvalidArgument
from omnialign.rubrics import MAX_SCORE
from omnialign.v1 import data_service_pb2
from services.data.importing.columns import OVERALL, SIDES, Layout, Row

MISTAKES_SHARE = 0.01
"""Up to this share of a column's values, those that are not expected are mistakes of their rows."""
MAX_VALUES = 5
MAX_NAMED = 6


@dataclass(frozen=True)
class Scales:
    """How to read scores and labels; None where the request declares nothing."""

    score_range: tuple[float, float] | None = None
    winner_labels: tuple[int, int] | None = None
    answer_labels: tuple[str, str] | None = None

    @classmethod
    def of(cls, request: data_service_pb2.ImportDatasetRequest) -> "Scales":
        """What a request declares. Raises SCORE_RANGE_INVALID, WINNER_LABELS_INVALID, ANSWER_LABELS_INVALID."""
        scores, labels = request.score_range, request.winner_labels
        good, bad = request.answer_labels.good.strip(), request.answer_labels.bad.strip()
        if request.HasField("score_range") and not -math.inf < scores.lowest < scores.highest < math.inf:
            message = f"The lowest score, {scores.lowest:g}, must be less than the highest, {scores.highest:g}."
            raise InvalidArgument(message, reason="SCORE_RANGE_INVALID")
        if request.HasField("winner_labels") and labels.first == labels.second:
            message = f"The label {labels.first} cannot stand for both responses: name two."
            raise InvalidArgument(message, reason="WINNER_LABELS_INVALID")
        if request.HasField("answer_labels") and (good == bad or not (good and bad)):
            message = f"The labels {good!r} and {bad!r} do not tell good answers from bad ones: name two."
            raise InvalidArgument(message, reason="ANSWER_LABELS_INVALID")
        return cls(
            (scores.lowest, scores.highest) if request.HasField("score_range") else None,
            (labels.first, labels.second) if request.HasField("winner_labels") else None,
            (good, bad) if request.HasField("answer_labels") else None,
        )

    def score(self, found: Any) -> int | None:
        """A value as a score from 0 to 3; None if it is none."""
        if self.score_range is None:
            number = as_integer(found)
            return number if number is not None and 0 <= number <= MAX_SCORE else None
        lowest, highest = self.score_range
        value = as_number(found)
        if value is None or not lowest <= value <= highest:
            return None
        return math.floor((value - lowest) / (highest - lowest) * MAX_SCORE + 0.5)

    def winner(self, found: Any) -> int | None:
        """The side, 1 or 2, that a label stands for; None if it stands for neither."""
        label = as_integer(found)
        labels = self.winner_labels or SIDES
        return labels.index(label) + 1 if label in labels else None

    def is_good(self, found: Any) -> bool | None:
        """Whether a label calls an answer good; None if it says neither."""
        if isinstance(found, bool) or self.answer_labels is None:
            return found if isinstance(found, bool) else None
        number = as_integer(found)
        label = str(number) if number is not None else found.strip() if isinstance(found, str) else ""
        return label == self.answer_labels[0] if label in self.answer_labels else None


@dataclass
class Column:
    """The numbers of one column. What is no number says nothing of its scale: it is a mistake of its row."""

    count: int = 0
    unexpected: int = 0
    lowest: float = math.inf
    highest: float = -math.inf
    values: set[float] = field(default_factory=set)
    """The first few different ones."""

    def add(self, found: Any, rows: int, *, is_expected: bool) -> None:
        """Counts the value of some rows."""
        number = as_number(found)
        if number is None:
            return
        self.count += rows
        self.unexpected += 0 if is_expected else rows
        self.lowest, self.highest = min(self.lowest, number), max(self.highest, number)
        if len(self.values) < MAX_VALUES:
            self.values.add(number)

    @property
    def is_odd(self) -> bool:
        """Whether more values are unexpected than a few mistakes."""
        return self.unexpected > MISTAKES_SHARE * self.count

    @property
    def has_ties(self) -> bool:
        """Whether these are the labels 1 and 2, and one value, such as 0, that stands for neither."""
        others = self.values - set(SIDES)
        return len(others) == 1 and 2 in self.values and (1 in self.values or others == {0.0})


class NumberChecks:
    """Looks at all numbers of a file before any of its rows is imported."""

    def __init__(self, file: str, scales: Scales) -> None:
        self._file, self._scales = file, scales
        self._scores: dict[str, Column] = {}
        self._labels: dict[str, Column] = {}

    def add(self, layout: Layout, row: Row, rows: int = 1) -> None:
        """Counts the numbers of a row, which stands for so many."""
        for name in layout.scores:
            if (found := row[name]) is not None:
                is_expected = self._scales.score(found) is not None
                self._scores.setdefault(name, Column()).add(found, rows, is_expected=is_expected)
        for name in (*OVERALL, *layout.winners):
            if (found := row.get(name)) is not None:
                is_expected = self._scales.winner(found) is not None
                self._labels.setdefault(name, Column()).add(found, rows, is_expected=is_expected)

    def check(self) -> None:
        """Raises SCORES_UNEXPECTED or LABELS_UNEXPECTED if columns hold another scale than is expected."""
        scores = {name: column for name, column in self._scores.items() if column.is_odd}
        if scores and self._scales.score_range is None:
            message = (
                f"The scores in {self._file} are not 0, 1, 2 or 3: {_named(scores)}; declare their scale with "
                "`--score-range LOWEST HIGHEST` (0 and 3 set aside the rows with other scores)."
            )
            raise InvalidArgument(message, reason="SCORES_UNEXPECTED", metadata=_metadata(self._file, scores))
        labels = {name: column for name, column in self._labels.items() if column.is_odd and not column.has_ties}
        if labels and self._scales.winner_labels is None:
            message = (
                f"The labels in {self._file} are not 1 or 2: {_named(labels)}; declare those of the first and of the "
                "second response with `--winner-labels FIRST SECOND` (1 and 2 set aside the rows with other labels)."
            )
            raise InvalidArgument(message, reason="LABELS_UNEXPECTED", metadata=_metadata(self._file, labels))


def _named(columns: dict[str, Column]) -> str:
    named = [f"{name} runs from {column.lowest:g} to {column.highest:g}" for name, column in columns.items()]
    rest = f" and {len(named) - MAX_NAMED} more columns" if len(named) > MAX_NAMED else ""
    return ", ".join(named[:MAX_NAMED]) + rest


def _metadata(file: str, columns: dict[str, Column]) -> dict[str, str]:
    lowest = min(column.lowest for column in columns.values())
    highest = max(column.highest for column in columns.values())
    return {"file": file, "columns": ",".join(columns)[:500], "lowest": f"{lowest:g}", "highest": f"{highest:g}"}


def as_integer(found: Any) -> int | None:
    """The integer that a value is, even if stored as a float or as digits; None for anything else."""
    if isinstance(found, bool):
        return None
    if isinstance(found, str) and found.strip().isascii() and found.strip().isdigit():
        return int(found) if len(found.strip()) < 10 else None
    if isinstance(found, float) and found.is_integer():
        return int(found)
    return found if isinstance(found, int) else None


def as_number(found: Any) -> float | None:
    """The finite number that a value is, even if stored as text; None for anything else."""
    if isinstance(found, bool) or not isinstance(found, int | float | str):
        return None
    try:
        number = float(found)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
