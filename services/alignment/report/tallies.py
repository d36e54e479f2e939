"""What a report counts of the records of an evaluation, one by one, so that it holds none of them.

A record of an evaluation table holds the base model's answer first and the aligned model's second, the checker's marks
in its labels, and the judge's comparison with the aligned answer as candidate.
"""

from collections import Counter
from dataclasses import dataclass, field

from omnialign.v1 import record_pb2

Record = record_pb2.Record

ALL, SEEN, HELD_OUT = PARTS = ("all", "seen", "held_out")


@dataclass
class Tally:
    """The prompts of one subtask."""

    prompts: Counter[str] = field(default_factory=Counter)
    """By part."""
    marks: dict[str, Counter[tuple[bool, bool]]] = field(default_factory=lambda: {part: Counter() for part in PARTS})
    """By part: whether the base and the aligned answer are fully correct, of the prompts that a checker marked."""
    verdicts: Counter[int] = field(default_factory=Counter)
    scores: dict[str, Counter[tuple[int, int]]] = field(default_factory=dict)
    """By dimension: the scores of both answers."""

    def add(self, record: Record) -> None:
        """Counts a record with two answers."""
        for part in (ALL, HELD_OUT if is_held_out(record) else SEEN):
            self.prompts[part] += 1
            if (marked := marks(record)) is not None:
                self.marks[part][marked] += 1
        if record.comparison.verdict:
            self.verdicts[record.comparison.verdict] += 1
        base, aligned = (_scores(record, place) for place in (0, 1))
        for dimension, score in base.items():
            counts = self.scores.setdefault(dimension, Counter())
            if dimension in aligned:
                counts[score, aligned[dimension]] += 1


class Tallies(dict[str, Tally]):
    """The tallies by subtask."""

    def add(self, record: Record) -> None:
        """Counts a record; one without two answers is left out."""
        if len(record.responses) >= 2:
            self.setdefault(record.subtask, Tally()).add(record)


def marks(record: Record) -> tuple[bool, bool] | None:
    """Whether the base and the aligned answer are fully correct; None where no checker marked both."""
    labels = dict(record.labels)  # reading a missing key of the map itself would write it
    if "correct_base" not in labels or "correct_aligned" not in labels:
        return None
    return labels["correct_base"] == "true", labels["correct_aligned"] == "true"


def is_held_out(record: Record) -> bool:
    """Whether the prompt combines attributes that were never annotated together."""
    return dict(record.labels).get("held_out") == "true"


def _scores(record: Record, index: int) -> dict[str, int]:
    """The first score of each dimension."""
    return {score.dimension: score.score for score in reversed(record.responses[index].feedback.scores)}
