"""The reviews of a job's pairs by people: which pairs there are to look at, and what was decided about each.

They are drawn when a round has its pairs; the job is paused then. Each decision is one transaction with the job's
event, and the last one of a round lets the job go on.
"""

import functools
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from omnialign.errors import FailedPrecondition, NotFound
from omnialign.v1 import alignment_service_pb2
from services.pipeline.job_store import JobStore
from services.pipeline.kind import Change, Record, stage_of

Job = alignment_service_pb2.AlignmentJob
PairReview = alignment_service_pb2.PairReview

REVIEWS = sa.Table(
    "alignment_reviews",
    sa.MetaData(),
    sa.Column("uid", sa.String(36), primary_key=True),
    sa.Column("round", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("record_id", sa.String(200), primary_key=True),
    sa.Column("decision", sa.Integer, nullable=False),
    sa.Column("review", sa.LargeBinary, nullable=False),
)
REVIEWED, AGREEMENT = "reviewed", "agreement"
"""Metrics of the stage: pairs reviewed, once the review has ended and nothing is decided any more; and the share of
them that people accepted as they are."""

PAGE_ROWS = 1000
"""Reviews that are added in one transaction."""


class ReviewStore:
    """The reviews of all jobs, in the database of the jobs."""

    def __init__(self, jobs: JobStore) -> None:
        self._jobs, self._database = jobs, jobs.database

    async def add(self, uid: str, *, number: int, records: AsyncIterator[Record]) -> None:
        """Adds records of a round that people are to review, page by page; a repeated call changes nothing."""
        page: list[str] = []
        async for record in records:
            page.append(record.id)
            if len(page) == PAGE_ROWS:
                await self._add(uid, number, page)
                page = []
        await self._add(uid, number, page)

    async def _add(self, uid: str, number: int, record_ids: Sequence[str]) -> None:
        rows = [
            {"uid": uid, "round": number, "record_id": i, "decision": 0, "review": _review(number, i)}
            for i in record_ids
        ]
        insert = self._database.insert(REVIEWS).on_conflict_do_nothing()
        if rows:
            await self._database.write(lambda connection: connection.execute(insert, rows))

    async def open(self, uid: str, *, stage: str, total: int) -> None:
        """Has people review what was added for a round, and pauses the job; a repeated call changes nothing."""
        await self._jobs.change(uid, functools.partial(_open, stage=stage, total=total))

    async def decide(self, job: Job, *, stage: str, review: PairReview) -> PairReview:
        """Notes a decision; the last one lets the job go on.

        Raises NotFound (`REVIEW_NOT_FOUND`) and FailedPrecondition (`REVIEW_CLOSED`).
        """
        table = REVIEWS.c
        mine = (table.uid == job.uid, table.round == review.round)
        values = {"decision": review.decision, "review": review.SerializeToString()}
        update = sa.update(REVIEWS).where(*mine, table.record_id == review.record_id).values(values)

        def prepare(connection: Connection) -> Change:
            if not connection.execute(update).rowcount:
                raise _not_found(job, review)
            decided = [row.decision > 0 for row in connection.execute(sa.select(table.decision).where(*mine))]
            return functools.partial(_decide, stage=stage, decided=sum(decided), total=len(decided))

        await self._jobs.change_by(job.uid, prepare)
        return review

    async def close(self, uid: str, *, stage: str, number: int) -> list[PairReview]:
        """Ends the review of a round: nothing is decided any more. Returns what was decided."""
        found: list[PairReview] = []

        def prepare(connection: Connection) -> Change:
            found[:] = [PairReview.FromString(row.review) for row in connection.execute(_query(uid, number=number))]
            return functools.partial(_close, stage=stage, reviews=list(found))

        await self._jobs.change_by(uid, prepare)
        return [review for review in found if review.decision]

    async def page(
        self, uid: str, *, after: tuple[int, str] | None, limit: int, pending_only: bool
    ) -> list[PairReview]:
        """Reviews of a job, by round and record; `after` is the (round, record id) of the last one seen."""
        table, query = REVIEWS.c, _query(uid)
        if after is not None:
            query = query.where(sa.tuple_(table.round, table.record_id) > sa.tuple_(*after))
        if pending_only:
            query = query.where(table.decision == 0)
        return [PairReview.FromString(row.review) for row in await self._database.all(query.limit(limit))]


def agreement(reviews: Iterable[PairReview]) -> float | None:
    """Share of the reviewed pairs that people accepted as they are; None if they reviewed none."""
    decided = [review for review in reviews if review.decision]
    if not decided:
        return None
    return sum(review.decision == PairReview.DECISION_ACCEPTED for review in decided) / len(decided)


def _open(job: Job, *, stage: str, total: int) -> str | None:
    status = stage_of(job, stage)
    if status.state != status.STATE_PENDING or job.state not in (Job.STATE_RUNNING, Job.STATE_PAUSED):
        return None
    status.state, status.total = status.STATE_RUNNING, total
    job.state = Job.STATE_PAUSED
    return f"Paused: {total} pairs wait for their review by people."


def _decide(job: Job, *, stage: str, decided: int, total: int) -> str:
    status = next((found for found in job.stages if found.stage == stage), None)
    is_open = status is not None and status.state == status.STATE_RUNNING and REVIEWED not in status.metrics
    if status is None or not is_open or job.state != Job.STATE_PAUSED:
        message = f"the job '{job.name}' does not wait for the review of this pair: it must be paused for it"
        raise FailedPrecondition(message, reason="REVIEW_CLOSED", metadata={"name": job.name, "stage": stage})
    status.completed = decided
    if decided < total:
        return f"{decided} of {total} pairs are reviewed."
    job.state = Job.STATE_RUNNING
    return f"All {total} pairs are reviewed: resumed."


def _close(job: Job, *, stage: str, reviews: Sequence[PairReview]) -> str | None:
    status, share = stage_of(job, stage), agreement(reviews)
    if REVIEWED in status.metrics:
        return None
    names: dict[str, Callable[[PairReview], bool]] = {
        "accepted": lambda review: review.decision == PairReview.DECISION_ACCEPTED,
        "rejected": lambda review: review.decision == PairReview.DECISION_REJECTED,
        "edited": lambda review: review.decision == PairReview.DECISION_EDITED,
    }
    counts = {name: sum(map(is_so, reviews)) for name, is_so in names.items()}
    status.metrics.update({name: float(count) for name, count in counts.items()})
    status.metrics[REVIEWED] = status.completed = sum(counts.values())
    if share is not None:
        status.metrics[AGREEMENT] = share
    words = ", ".join(f"{count} {name}" for name, count in counts.items())
    left = len(reviews) - status.completed
    return f"People reviewed the pairs: {words}{f'; {left} were left out' if left else ''}."


def _review(number: int, record_id: str) -> bytes:
    return PairReview(round=number, record_id=record_id).SerializeToString()


def _query(uid: str, *, number: int = 0) -> sa.Select[Any]:
    table = REVIEWS.c
    where = [table.uid == uid, *([table.round == number] if number else [])]
    return sa.select(table.review).where(*where).order_by(table.round, table.record_id)


def _not_found(job: Job, review: PairReview) -> NotFound:
    message = (
        f"the record '{review.record_id}' is not among the pairs of round {review.round} of '{job.name}' that are "
        "reviewed; list them with `omnialign jobs reviews`"
    )
    metadata = {"name": job.name, "record_id": review.record_id, "round": str(review.round)}
    return NotFound(message, reason="REVIEW_NOT_FOUND", metadata=metadata)
