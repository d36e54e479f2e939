"""The stage `review`: people look at some pairs of a round before anything is trained on them.

The pairs are drawn, and the job pauses. It goes on by itself after the last decision, or when a person resumes it: then
with the decisions that there are. The pairs on which nobody decided stay as the gate left them.
"""

from collections.abc import AsyncIterator, Mapping

from omnialign import names
from omnialign.errors import FailedPrecondition
from services.alignment.job import PAIR, REVIEW, REVIEWED_PAIRS, of_round
from services.alignment.pairs import Record
from services.alignment.reading import Reader, chosen
from services.alignment.reviews import Job, PairReview, ReviewStore, agreement
from services.pipeline import planning
from services.pipeline.kind import JobContext, stage_of
from services.pipeline.service import Toolbox

DECISIONS = {
    PairReview.DECISION_ACCEPTED: "accepted",
    PairReview.DECISION_REJECTED: "rejected",
    PairReview.DECISION_EDITED: "edited",
}
REVIEW_LABEL, REVIEWER_LABEL = "review", "reviewer"
"""Labels of a reviewed pair: what was decided, and by whom."""


class ReviewStage:
    """The stage, of all jobs of a process."""

    def __init__(self, tools: Toolbox) -> None:
        self._reviews = ReviewStore(tools.jobs)
        self._tables, self._retrier, self._update = tools.tables, tools.retrier, tools.updater.update
        self._reader = Reader(tools.retrier)

    async def open(self, context: JobContext, *, pairs_version: str, number: int) -> None:
        """Draws the pairs that people are to review, and pauses the job."""

        def stream() -> AsyncIterator[Record]:
            return context.clients.data.stream_records(pairs_version)

        def count(total: int) -> int:
            return planning.share(total, fraction=context.plan.review.sample)

        drawn = await self._reader.draw(context, stream, count)

        async def add() -> None:
            await self._reviews.add(context.uid, number=number, records=chosen(stream(), drawn.takes))

        await self._retrier.call(add, uid=context.uid, service="data")
        await self._reviews.open(context.uid, stage=of_round(REVIEW, number), total=drawn.total)

    async def close(self, context: JobContext, *, pairs_version: str, number: int) -> str:
        """Applies what was decided; returns the version of the pairs that are left.

        Raises FailedPrecondition: `REVIEW_DISAGREES` if people accepted too few, `NO_PAIRS_KEPT` if no pair is left.
        """
        stage = of_round(REVIEW, number)
        reviews = await self._reviews.close(context.uid, stage=stage, number=number)
        share, least = agreement(reviews), context.plan.review.min_agreement
        if share is not None and share < least:
            raise _disagrees(context, share=share, reviewed=len(reviews), stage=stage)
        decided = {review.record_id: review for review in reviews}

        purpose = of_round(REVIEWED_PAIRS, number)
        await self._tables.create(context, purpose)
        pairs = context.clients.data.stream_records
        left = await self._tables.fill(context, purpose, lambda: _left(pairs(pairs_version), decided))
        if not left:
            message = "people rejected every pair, so that none was left to optimise on; look at the judge"
            raise FailedPrecondition(message, reason="NO_PAIRS_KEPT", metadata={"stage": stage})
        version = await self._tables.commit(context, purpose)
        await self._tables.link(context, (pairs_version, version, "reviewed_of"), (context.name, version, "produced"))

        def change(job: Job) -> str:
            stage_of(job, stage).dataset = context.table(purpose)
            return f"{left} pairs are left of {stage_of(job, of_round(PAIR, number)).completed}."

        await self._update(context.uid, stage, change)
        return version


async def _left(records: AsyncIterator[Record], decided: Mapping[str, PairReview]) -> AsyncIterator[Record]:
    """The pairs that are trained on, with the decisions on those that were reviewed."""
    async for record in records:
        review = decided.get(record.id)
        if review is None:
            yield record
        elif review.decision != PairReview.DECISION_REJECTED:
            yield _reviewed(record, review)


def _reviewed(record: Record, review: PairReview) -> Record:
    record.labels[REVIEW_LABEL], record.labels[REVIEWER_LABEL] = DECISIONS[review.decision], review.reviewer
    record.preference.preferred, record.preference.reason = 2, review.reason
    if review.decision == PairReview.DECISION_EDITED:
        del record.responses[1:]
        record.responses.add(content=review.refinement, source="review")
        record.ClearField("comparison")  # nobody judged what a person wrote
    return record


def _disagrees(context: JobContext, *, share: float, reviewed: int, stage: str) -> FailedPrecondition:
    least = context.plan.review.min_agreement
    message = (
        f"people accepted {share:.0%} of the {reviewed} pairs that they reviewed, and {least:.0%} is the least; look "
        f"at them with `omnialign jobs reviews {names.id_of(context.name)}`, raise gate_precision, or "
        "lower review.min_agreement"
    )
    metadata = {"stage": stage, "agreement": f"{share:.4f}", "min_agreement": f"{least:.4f}"}
    return FailedPrecondition(message, reason="REVIEW_DISAGREES", metadata=metadata)
