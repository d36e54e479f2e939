"""Models that fill in the form for the tests: by what they are shown, as a real one would."""

import json
from collections.abc import Callable, Sequence
from typing import Any

from omnialign.content import content, text_of
from omnialign.rubrics import TEXT
from omnialign.v1.annotation_service_pb2 import DraftJob, DraftSpec
from omnialign.v1.content_pb2 import Content
from tests.services.annotation.conftest import Stack

MODEL = "openai+http://127.0.0.1:9/v1#judge"
"""Nobody asks there: the null services answer for any model."""
WORDS = {0: "equal", 1: "first", 2: "second"}
TOKENS_PER_PAIR = 14
"""What a null model writes on a pair in both orders."""

Reply = Callable[[str, Any], Content]


def form(*, scores: tuple[int, int] = (3, 1), better: int = 1, dimensions: Sequence[str] = TEXT) -> dict[str, Any]:
    """A form in which every dimension is the same; `better` and `scores` are by the order shown."""

    def side(score: int, name: str) -> dict[str, Any]:
        rated = {one: {"rationale": f"{one} of {name}", "score": score} for one in dimensions}
        return {"critique": f"critique of {name}", "refinement": f"advice for {name}", "scores": rated}

    return {
        "first": side(scores[0], "the first"),
        "second": side(scores[1], "the second"),
        "winners": dict.fromkeys(dimensions, WORDS[better]),
        "reason": f"response {better} is right",
        "preferred": WORDS[better or 1],
    }


def is_swapped(item: Any) -> bool:
    """Whether the second response is shown first."""
    text = text_of(item.prompt)
    return text.index('"answer 2"') < text.index('"answer 1"')


def prefers_the_first_answer(model: str, item: Any) -> Content:
    """A model that says the same whatever the order: the first answer of the record is better."""
    swapped = is_swapped(item)
    return content(json.dumps(form(better=2 if swapped else 1, scores=(1, 3) if swapped else (3, 1))))


def prefers_what_is_shown_first(model: str, item: Any) -> Content:
    """A model that flips with the order."""
    return content(json.dumps(form()))


async def draft(stack: Stack, campaign: str, **fields: Any) -> DraftJob:
    """Submits a draft job and waits for its end."""
    return await end_of(stack, (await submit(stack, campaign, **fields)).name)


async def submit(stack: Stack, campaign: str, *, job_id: str = "drafts", **fields: Any) -> DraftJob:
    """Submits a draft job."""
    values = {"model": MODEL, "chunk_size": 1, **fields}
    return await stack.client.create_draft_job(job_id, DraftSpec(campaign=campaign, **values))


async def end_of(stack: Stack, name: str) -> DraftJob:
    """The job once it has ended."""
    return await until(
        stack, name, lambda job: job.state in (job.STATE_SUCCEEDED, job.STATE_FAILED, job.STATE_CANCELLED)
    )


async def until(stack: Stack, name: str, wanted: Callable[[DraftJob], bool]) -> DraftJob:
    """The job at the first event for which `wanted` is true."""
    async for event in stack.client.watch_draft_job(name):
        if wanted(event.draft_job):
            return event.draft_job
    raise AssertionError("the job ended before")
