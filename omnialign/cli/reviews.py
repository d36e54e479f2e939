"""`omnialign jobs reviews | review`: pairs of a job that wait for people, and what people decide."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from omnialign.cli.jobs import Job, app
from omnialign.cli.session import Session, command

if TYPE_CHECKING:
    from omnialign.v1 import content_pb2

__all__ = ["app"]

SHOWN_CHARACTERS = 60


@app.command()
@command
async def reviews(
    session: Session,
    job: Job,
    pending: Annotated[bool, typer.Option("--pending", help="Only pairs on which nothing is decided yet.")] = False,
) -> None:
    """List the pairs of a job that people review: the prompt, y, y* and what was decided."""
    from omnialign.v1 import alignment_service_pb2

    name, rows = session.name("alignmentJobs", job), []
    async with session.client() as client:
        datasets = {status.stage: status.dataset for status in (await client.get_alignment_job(name)).stages}
        async for review in client.list_pair_reviews(name, pending_only=pending):
            session.out.record(review)
            if session.out.as_json:
                continue
            dataset = datasets.get("pair" if review.round == 1 else f"pair-{review.round}", "")
            found = client.stream_records(dataset, ids=[review.record_id]) if dataset else None
            record = await anext(found, None) if found else None
            decision = alignment_service_pb2.PairReview.Decision.Name(review.decision)
            words = decision.removeprefix("DECISION_").lower() if review.decision else ""
            contents = [record.prompt, *(response.content for response in record.responses)] if record else []
            rows.append((review.round, review.record_id, *_texts(contents), words, review.reviewer))
    heads = ("ROUND", "RECORD", "PROMPT", "Y", "Y*", "DECISION", "BY")
    session.out.table(heads, rows, empty="No pair of this job waits for a review.")


@app.command()
@command
async def review(
    session: Session,
    job: Job,
    record: Annotated[str, typer.Argument(help="Id of the record.")],
    accept: Annotated[bool, typer.Option("--accept", help="y* is better: the pair is trained on.")] = False,
    reject: Annotated[bool, typer.Option("--reject", help="It is not: the pair is dropped.")] = False,
    edit: Annotated[str, typer.Option(help="A text that is preferred to y in the place of y*.")] = "",
    reason: Annotated[str, typer.Option(help="Why.")] = "",
    number: Annotated[int, typer.Option("--round", min=1, help="Round of the loop.")] = 1,
) -> None:
    """Decide on a pair of a job that waits for its review. After the last pair the job goes on."""
    from omnialign.content import content
    from omnialign.errors import InvalidArgument
    from omnialign.v1 import alignment_service_pb2

    if [accept, reject, bool(edit)].count(True) != 1:
        message = "Give exactly one of --accept, --reject and --edit TEXT."
        raise InvalidArgument(message, reason="DECISION_MISSING")
    decisions = alignment_service_pb2.PairReview
    decision = decisions.DECISION_ACCEPTED if accept else decisions.DECISION_REJECTED
    name = session.name("alignmentJobs", job)
    async with session.client() as client:
        made = await client.review_pair(
            name,
            record,
            decisions.DECISION_EDITED if edit else decision,
            reason=reason,
            refinement=content(edit) if edit else None,
            number=number,
        )
        left = [one.record_id async for one in client.list_pair_reviews(name, pending_only=True)]
    session.out.record(made)
    session.out.say(f"Left to review: {len(left)}." if left else "All pairs are reviewed: the job goes on.")


def _texts(contents: list[content_pb2.Content]) -> tuple[Any, ...]:
    """Each message in one line; media by their type."""
    found = []
    for one in contents[:3]:
        words = " ".join(part.text or f"[{part.media.mime_type or 'medium'}]" for part in one.parts)
        found.append(words if len(words) <= SHOWN_CHARACTERS else f"{words[: SHOWN_CHARACTERS - 1]}…")
    return (*found, *[""] * (3 - len(found)))
