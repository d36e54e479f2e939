"""What became of records in a step: numbers that are stored per chunk and step, and added up per stage."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from omnialign.v1 import record_pb2

ABSTAINED_LABEL = "abstained"
"""Label of a record that left the job because a model's answer was unreadable, not through any fault of its own."""

_FIELDS = ("chunks", "completed", "quarantined", "abstained", "tokens", "reused", "seconds")


@dataclass
class Counts:
    """Records by fate, and what they cost."""

    chunks: int = 0
    completed: int = 0
    """Records that went on."""
    quarantined: int = 0
    abstained: int = 0
    """Records on which a model abstained, whether they went on or not."""
    tokens: int = 0
    """Tokens that models wrote."""
    reused: int = 0
    """Answers that were kept from before, so that nobody was asked."""
    seconds: float = 0.0
    """Time that chunks spent in the step, commit included."""
    reasons: dict[str, int] = field(default_factory=dict)
    """Quarantined records by reason code."""
    measures: dict[str, int] = field(default_factory=dict)
    """Whatever else the steps of the job kind count (`Step.measures`), by name."""

    def add(self, other: "Counts") -> None:
        """Adds the other's numbers to this one's."""
        for name in _FIELDS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for mine, others in ((self.reasons, other.reasons), (self.measures, other.measures)):
            for name, count in others.items():
                mine[name] = mine.get(name, 0) + count

    def copy(self) -> "Counts":
        """The same numbers, for somebody else to change."""
        return replace(self, reasons=dict(self.reasons), measures=dict(self.measures))

    def measure(self, name: str) -> int:
        """One of `measures`; 0 where nothing was counted under the name."""
        return self.measures.get(name, 0)

    def to_json(self) -> dict[str, Any]:
        """The numbers that are not zero, in one flat object apart from `reasons`."""
        flat = {name: value for name in _FIELDS if (value := getattr(self, name))}
        reasons = {"reasons": self.reasons} if self.reasons else {}
        return {**flat, **{name: n for name, n in self.measures.items() if n}, **reasons}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Counts":
        """The inverse of `to_json`."""
        own = {name: value for name, value in values.items() if name in (*_FIELDS, "reasons")}
        return cls(**own, measures={name: value for name, value in values.items() if name not in own})


def tally(
    records: Iterable[record_pb2.Record],
    *,
    rejected: Iterable[record_pb2.Record],
    measures: Callable[[record_pb2.Record], Mapping[str, int]],
    tokens: int,
    reused: int,
    seconds: float,
) -> Counts:
    """Counts of one chunk in one step: `records` went to the step's table, `rejected` to the quarantine."""
    counts = Counts(chunks=1, tokens=tokens, reused=reused, seconds=seconds)
    for record in rejected:
        if ABSTAINED_LABEL in record.labels:
            counts.abstained += 1
        else:
            counts.quarantined += 1
            counts.reasons[record.quarantine.reason] = counts.reasons.get(record.quarantine.reason, 0) + 1
    measured: Counter[str] = Counter()
    for record in records:
        # A judge that abstains leaves the record in the job, but it is no result: it counts apart.
        if _has_abstained(record):
            counts.abstained += 1
        else:
            counts.completed += 1
        measured.update(measures(record))
    counts.measures = dict(measured)
    return counts


def _has_abstained(record: record_pb2.Record) -> bool:
    """Whether a judge made nothing of the record."""
    assessments = record.responses[-1].assessments if record.responses else ()
    if assessments:
        return all(assessment.abstain_reason for assessment in assessments)
    return record.comparison.verdict == record_pb2.VERDICT_ABSTAIN
