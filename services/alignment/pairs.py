"""Which records become preference pairs: those that passed the gate, or for comparison the annotated ones."""

from collections.abc import AsyncIterator

from omnialign.v1 import record_pb2
from services.alignment.job import Spec, is_binary
from services.pipeline.item_calls import prompt_only
from services.pipeline.planning import subset
from services.pipeline.service_calls import ServiceClients

Record = record_pb2.Record


def split_records(plan: Spec, clients: ServiceClients, *, split: str) -> AsyncIterator[Record]:
    """The records of a split in the subtasks of the job."""
    return clients.data.stream_records(plan.dataset, splits=[split], subtasks=list(plan.subtasks))


async def find_pairs(plan: Spec, clients: ServiceClients, *, verified: str) -> list[Record]:
    """The pairs of a job: of the annotated records in a binary job, else of the version `verified` of its gate."""
    if is_binary(plan):
        return await annotated(split_records(plan, clients, split=plan.feedback_split))
    return await gated(clients.data.stream_records(verified))


async def gated(records: AsyncIterator[Record]) -> list[Record]:
    """Records whose refinement the judge preferred in both orders; responses are [y, y*]."""
    return [record async for record in records if record.comparison.verdict == record_pb2.VERDICT_WIN]


async def annotated(records: AsyncIterator[Record]) -> list[Record]:
    """Records with an annotated preference; responses are [rejected, chosen], in the order of the gate's [y, y*]."""
    return [ordered(record) async for record in records if has_preference(record)]


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


def cap(records: list[Record], *, seed: int, count: int) -> list[Record]:
    """At most `count` of the pairs (0 means all), drawn by the job's seed, in order of id."""
    if count and len(records) > count:
        chosen = set(subset([record.id for record in records], seed=seed, count=count))
        records = [record for record in records if record.id in chosen]
    return sorted(records, key=lambda record: record.id)
