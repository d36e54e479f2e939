"""Reviews: the pairs of an alignment job that wait for people, with what the judge said, and what people decide."""

from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from omnialign import names
from omnialign.client import AsyncClient
from omnialign.errors import InvalidArgument, NotFound
from omnialign.v1 import content_pb2
from omnialign.v1.alignment_service_pb2 import AlignmentJob, PairReview
from omnialign.v1.record_pb2 import Record
from services.console.context import Context, name_in

SHOWN = 10
DECISIONS = {
    "accept": PairReview.DECISION_ACCEPTED,
    "reject": PairReview.DECISION_REJECTED,
    "edit": PairReview.DECISION_EDITED,
}
WORDS = {
    PairReview.DECISION_ACCEPTED: "accepted",
    PairReview.DECISION_REJECTED: "rejected",
    PairReview.DECISION_EDITED: "edited",
}
MAX_BODY_BYTES = 4 * 1024 * 1024


def review_routes(context: Context) -> list[Route]:
    """The page of a job's reviews, and the decisions."""

    async def reviews(request: Request) -> Response:
        client, name = context.client(request), name_in(request, names.ALIGNMENT_JOB)
        job = await client.get_alignment_job(name)
        found = [review async for review in client.list_pair_reviews(name)]
        pending = [review for review in found if not review.decision]
        open_again = {_key(review) for review in found if review.decision and _is_open(job, review)}
        again = [review for review in found if _key(review) in open_again & {request.query_params.get("again", "")}]
        return context.pages.page(
            request,
            "reviews.html.j2",
            section="jobs",
            job=job,
            pending=len(pending),
            decided=[review for review in found if review.decision],
            shown=[
                (review, record, _words(review, record))
                for review, record in await _with_records(client, job, again or pending[:SHOWN])
            ],
            again=bool(again),
            open_again=open_again,
            words=WORDS,
            key=_key,
        )

    async def decide(request: Request) -> Response:
        client, name = context.client(request), name_in(request, names.ALIGNMENT_JOB)
        fields = await context.form(request)
        number, record_id, kind = fields.get("round", ""), fields.get("record", ""), fields.get("decision", "")
        if kind not in DECISIONS or not (number.isascii() and number.isdigit() and len(number) < 3):
            raise InvalidArgument("Choose to accept, reject or edit the pair.", reason="DECISION_MISSING")
        refinement = None
        if kind == "edit":
            review = PairReview(round=int(number), record_id=record_id)
            ((_, record),) = await _with_records(client, await client.get_alignment_job(name), [review])
            refinement = edited(record, fields.get("text", "").replace("\r\n", "\n"))
        reason = fields.get("reason", "").strip()
        decision = DECISIONS[kind]
        await client.review_pair(name, record_id, decision, reason=reason, refinement=refinement, number=int(number))
        return RedirectResponse(f"/{name}/reviews", 303)

    path = f"/{names.ALIGNMENT_JOB}/reviews"
    return [
        Route(path, reviews, methods=["GET"]),
        Route(path, decide, methods=["POST"], max_body_size=MAX_BODY_BYTES),
    ]


def _key(review: PairReview) -> str:
    """How an address says a pair."""
    return f"{review.round}.{review.record_id}"


def _is_open(job: AlignmentJob, review: PairReview) -> bool:
    """Whether the decision about a pair can still be changed: while the job waits for others of its round."""
    name = "review" if review.round == 1 else f"review-{review.round}"
    is_waiting = (
        one.state == one.STATE_RUNNING and "reviewed" not in one.metrics for one in job.stages if one.stage == name
    )
    return job.state == AlignmentJob.STATE_PAUSED and any(is_waiting)


def _words(review: PairReview, record: Record) -> str:
    """What the field for an edit begins with: y*, or what was written instead of it."""
    return "\n\n".join(_texts(review.refinement)) if review.HasField("refinement") else text(record)


def text(record: Record) -> str:
    """What y* says in words."""
    return "\n\n".join(_texts(record.responses[1].content))


def _texts(message: content_pb2.Content) -> list[str]:
    return [part.text for part in message.parts if part.WhichOneof("part") == "text"]


def edited(record: Record, words: str) -> content_pb2.Content:
    """y* with other words, and its media as they are."""
    made = content_pb2.Content()
    if words.strip():
        made.parts.add(text=words)
    made.parts.extend(part for part in record.responses[1].content.parts if part.WhichOneof("part") == "media")
    return made


async def _with_records(
    client: AsyncClient, job: AlignmentJob, reviews: Sequence[PairReview]
) -> list[tuple[PairReview, Record]]:
    """Reviews with their pairs, which the datasets of the stages `pair` have. Raises NotFound if one is gone."""
    datasets = {stage.stage: stage.dataset for stage in job.stages}
    records = dict[tuple[int, str], Record]()
    for number in sorted({review.round for review in reviews}):
        dataset = datasets.get("pair" if number == 1 else f"pair-{number}", "")
        ids = [review.record_id for review in reviews if review.round == number]
        if dataset:
            async for record in client.stream_records(dataset, ids=ids):
                records[number, record.id] = record
    try:
        return [(review, records[review.round, review.record_id]) for review in reviews]
    except KeyError:
        raise NotFound(
            "A pair that waits for its review is no longer in its dataset.", reason="RECORD_NOT_FOUND"
        ) from None
