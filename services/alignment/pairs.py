"""Which records become preference pairs: those that passed the gate, or for comparison the annotated ones."""

from collections.abc import AsyncIterator

from omnialign.v1 import record_pb2
from services.alignment.job import Spec, is_binary
from services.pipeline.item_calls import prompt_only
from services.pipeline.service_calls import ServiceClients

Record = record_pb2.Record


def split_records(plan: Spec, clients: ServiceClients, *, split: str) -> AsyncIterator[Record]:
    """The records of a split in the subtasks of the job."""
    return clients.data.stream_records(plan.dataset, splits=[split], subtasks=list(plan.subtasks))


def find_pairs(plan: Spec, clients: ServiceClients, *, verified: str) -> AsyncIterator[Record]:
    """The pairs of a job, in order of id: of the annotated records in a binary job, else of the version `verified` of
    its gate."""
    if is_binary(plan):
        return annotated(split_records(plan, clients, split=plan.feedback_split))
    return gated(clients.data.stream_records(verified))


async def gated(records: AsyncIterator[Record]) -> AsyncIterator[Record]:
    """Records whose refinement the judge preferred in both orders; responses are [y, y*]."""
    async for record in records:
        if record.comparison.verdict == record_pb2.VERDICT_WIN:
            yield record


async def annotated(records: AsyncIterator[Record]) -> AsyncIterator[Record]:
    """Records with an annotated preference; responses are [rejected, chosen], in the order of the gate's [y, y*]."""
    async for record in records:
        if has_preference(record):
            yield ordered(record)


def has_preference(record: Record) -> bool:
    """Whether people said which of two responses is better."""
    return record.preference.preferred in (1, 2) and len(record.responses) >= 2


def has_feedback(record: Record) -> bool:
    """Whether people wrote feedback on a response."""
    return any(r.feedback.critique or r.feedback.refinement or r.feedback.scores for r in record.responses)


def ordered(record: Record) -> Record:
    """The pair in an annotated record, the preferred response second."""
    pair = prompt_only(record)
    chosen = record.preference.preferred - 1
    for index in (1 - chosen, chosen):
        pair.responses.add().CopyFrom(record.responses[index])
    pair.preference.preferred = 2
    pair.preference.reason = record.preference.reason
    return pair
