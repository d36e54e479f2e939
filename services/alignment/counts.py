"""What became of records in a step: numbers that are stored per chunk and summed per stage."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from typing import Any

from omnialign.v1 import record_pb2

ABSTAINED_LABEL = "abstained"
"""Label of a record that left the job because a model's answer could not be read, not for a fault of its own."""


@dataclass
class Counts:
    """Records by fate, and what they cost. `seconds` is the time that the models worked."""

    chunks: int = 0
    completed: int = 0
    quarantined: int = 0
    abstained: int = 0
    kept: int = 0
    tied: int = 0
    lost: int = 0
    correct_base: int = 0
    correct_aligned: int = 0
    checked: int = 0
    tokens: int = 0
    seconds: float = 0.0
    reasons: dict[str, int] = field(default_factory=dict)

    def add(self, other: "Counts") -> None:
        """Adds the other's numbers to this one's."""
        for entry in fields(self):
            if entry.name != "reasons":
                setattr(self, entry.name, getattr(self, entry.name) + getattr(other, entry.name))
        self.reasons = dict(Counter(self.reasons) + Counter(other.reasons))

    @property
    def through(self) -> int:
        """Records of which the fate is known."""
        return self.completed + self.quarantined + self.abstained

    def to_json(self) -> dict[str, Any]:
        """The numbers that are not zero."""
        return {entry.name: value for entry in fields(self) if (value := getattr(self, entry.name))}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Counts":
        """The inverse of `to_json`."""
        return cls(**values)


def tally(
    records: Iterable[record_pb2.Record], *, rejected: Iterable[record_pb2.Record], tokens: int, seconds: float
) -> Counts:
    """Counts of one chunk in one step: `records` are in the step's table, `rejected` in the quarantine."""
    counts = Counts(chunks=1, tokens=tokens, seconds=seconds)
    for record in rejected:
        if ABSTAINED_LABEL in record.labels:
            counts.abstained += 1
        else:
            counts.quarantined += 1
            counts.reasons[record.quarantine.reason] = counts.reasons.get(record.quarantine.reason, 0) + 1
    for record in records:
        _count(record, counts)
    return counts


def _count(record: record_pb2.Record, counts: Counts) -> None:
    verdict = record.comparison.verdict
    counts.kept += verdict == record_pb2.VERDICT_WIN
    counts.tied += verdict == record_pb2.VERDICT_TIE
    counts.lost += verdict == record_pb2.VERDICT_LOSS
    counts.abstained += verdict == record_pb2.VERDICT_ABSTAIN
    counts.completed += verdict != record_pb2.VERDICT_ABSTAIN
    if "correct_base" in record.labels:
        counts.checked += 1
        counts.correct_base += record.labels["correct_base"] == "true"
        counts.correct_aligned += record.labels["correct_aligned"] == "true"
