"""What a caller can do with the reviews of a job: list them, and decide."""

from omnialign import names
from omnialign.content import media_of
from omnialign.errors import InvalidArgument
from omnialign.modeling.inputs import MediaPolicy
from omnialign.v1 import alignment_service_pb2
from services.alignment.job import REVIEW, Job, of_round
from services.alignment.reviews import PairReview, ReviewStore
from services.pipeline.media_check import MediaCheck
from services.pipeline.service import Pipeline
from services.runtime.context import caller
from services.runtime.requests import decode_token, encode_token, page_size


class Reviewing:
    """The reviews of jobs as callers see them."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._jobs, self._clients, self._reviews = pipeline.jobs, pipeline.clients, ReviewStore(pipeline.store)

    async def page(self, request: alignment_service_pb2.ListPairReviewsRequest) -> tuple[list[PairReview], str]:
        """One page of the reviews of a job, by round and record, and the token of the next page."""
        job, size = await self._jobs.get(request.parent), page_size(request.page_size)
        key = decode_token(request.page_token, filter=request.parent, kinds=(int, bytes))
        after = (int(key[0]), bytes.fromhex(key[1]).decode()) if key else None
        found = await self._reviews.page(job.uid, after=after, limit=size + 1, pending_only=request.pending_only)
        token = ""
        if len(found) > size:
            last = found[size - 1]
            token = encode_token([str(last.round), last.record_id.encode().hex()], filter=request.parent)
        return found[:size], token

    async def decide(self, request: alignment_service_pb2.ReviewPairRequest) -> PairReview:
        """Notes what the caller decides.

        Raises InvalidArgument (`REVIEW_EDIT_EMPTY`, `REVIEW_EDIT_UNWANTED`, and why a medium cannot be used), and as
        `ReviewStore.decide`.
        """
        job: Job = await self._jobs.get(request.name)
        await self._check_edit(request)
        who = caller()
        review = PairReview(
            round=request.round or 1,
            record_id=request.record_id,
            decision=request.decision,
            reason=request.reason,
            refinement=request.refinement if request.HasField("refinement") else None,
            reviewer=who.name if who else "",
        )
        review.review_time.GetCurrentTime()
        return await self._reviews.decide(job, stage=of_round(REVIEW, review.round), review=review)

    async def _check_edit(self, request: alignment_service_pb2.ReviewPairRequest) -> None:
        is_edited = request.decision == PairReview.DECISION_EDITED
        if is_edited and not request.refinement.parts:
            message = "an edited pair needs the refinement that is preferred; give it, or reject the pair"
            raise _refused(message, reason="REVIEW_EDIT_EMPTY")
        if not is_edited and request.HasField("refinement"):
            message = "only an edited pair has a refinement of its own; leave it out, or decide DECISION_EDITED"
            raise _refused(message, reason="REVIEW_EDIT_UNWANTED")
        clients = await self._clients.of(names.project_of(request.name))
        check = MediaCheck(clients.data, MediaPolicy())
        if reason := await check.problem(media_of([request.refinement])):
            raise _refused(f"a medium of the refinement cannot be used ({reason}); upload it first", reason=reason)


def _refused(message: str, *, reason: str) -> InvalidArgument:
    return InvalidArgument(message, reason=reason, violations=[("refinement", message)])
