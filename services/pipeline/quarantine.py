"""The quarantine: records that leave a job with a reason, and the rule that ends a job with too many of them.

A record that fails through its own fault, or on which a model abstains, never stops the job by itself.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from omnialign.errors import FailedPrecondition, from_status
from services.pipeline.counts import ABSTAINED_LABEL, Counts
from services.pipeline.kind import Job, Phase, Record, StageStatus, stage_of

QUARANTINE = "quarantine"
"""Purpose of the table that every job keeps its quarantined records in."""

MAX_MESSAGE_CHARACTERS = 1000


def quarantined(record: Record, *, stage: str, reason: str, message: str) -> Record:
    """A copy of the record as it goes to the quarantine."""
    copy = Record()
    copy.CopyFrom(record)
    copy.quarantine.stage, copy.quarantine.reason = stage, reason
    copy.quarantine.message = message[:MAX_MESSAGE_CHARACTERS]
    return copy


def rejected(record: Record, answer: Any, *, stage: str) -> Record:
    """The record of an item that a service answered with an error, with the error's reason."""
    error = from_status(answer.error)
    return quarantined(record, stage=stage, reason=error.reason, message=error.message)


def abstained(record: Record, *, stage: str, reason: str, text: str) -> Record:
    """The record of an item on which the model abstained: it leaves the job, but not through its own fault."""
    copy = quarantined(record, stage=stage, reason=reason or "ABSTAINED", message=text)
    copy.labels[ABSTAINED_LABEL] = "true"
    return copy


def check_quarantine(job: Job, phases: Iterable[Phase], totals: Mapping[str, Counts], *, limit: float) -> None:
    """Raises FailedPrecondition (`QUARANTINE_LIMIT`) if a stage quarantined more than the share `limit` of its
    records."""
    for phase in phases:
        for stage in phase.stages:
            status = stage_of(job, stage)
            if status.total and status.quarantined > limit * status.total:
                merged = Counts()
                for step in phase.steps_of(stage):
                    merged.add(totals.get(step, Counts()))
                raise _too_many(status, merged.reasons, limit=limit)


def _too_many(status: StageStatus, reasons: Mapping[str, int], *, limit: float) -> FailedPrecondition:
    reason = max(sorted(reasons), key=lambda name: reasons[name], default="UNKNOWN")
    message = (
        f"{status.quarantined} of {status.total} records were quarantined in '{status.stage}', more than the share of "
        f"{limit:g} that the job allows; most often {reason} ({reasons.get(reason, 0)} times)"
    )
    metadata = {
        "stage": status.stage,
        "quarantined": str(status.quarantined),
        "total": str(status.total),
        "limit": f"{limit:g}",
        "most_common_reason": reason,
    }
    return FailedPrecondition(message, reason="QUARANTINE_LIMIT", metadata=metadata)
