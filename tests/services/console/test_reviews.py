"""The page on which people review the pairs of an alignment job that waits for them, before the real service."""

import asyncio
import re
from collections.abc import AsyncIterator
from html import unescape
from pathlib import Path

import httpx2
import pytest
from markupsafe import escape

from omnialign.content import content, text_of
from omnialign.v1.alignment_service_pb2 import PairReview, ReviewSettings
from omnialign.v1.content_pb2 import MODALITY_IMAGE, Media
from omnialign.v1.record_pb2 import Record, Response
from services.console.reviews import edited
from tests.service_stack import SECONDS
from tests.services.alignment.test_review import waiting
from tests.services.console.conftest import Browser
from tests.services.console.hostile import SCRIPT
from tests.services.console.reviewing import Reviewing, reviewed
from tests.services.console.test_jobs import assert_harmless


@pytest.fixture
async def reviewing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Reviewing]:
    async with reviewed(tmp_path, monkeypatch) as found:
        yield found


@pytest.fixture
async def browser(reviewing: Reviewing) -> AsyncIterator[Browser]:
    """A person before the console."""
    async with httpx2.AsyncClient(base_url=reviewing.address) as http:
        yield Browser(http)


async def test_pairs_are_accepted_rejected_and_edited_and_then_the_job_goes_on(
    reviewing: Reviewing, browser: Browser
) -> None:
    stack = reviewing.stack
    job, reviews = await waiting(stack, prompts=6, review=ReviewSettings(sample=0.5, min_agreement=0.0))
    assert f'href="/{job.name}/reviews"' in (await browser.get(f"/{job.name}")).text
    place = f"/{job.name}/reviews"
    page = (await browser.get(place)).text
    assert page.count("<article") == 3 and "3 pairs wait for you" in page
    pairs = {record.id: record for record in await stack.records(job, "pairs")}
    pair = pairs[reviews[0].record_id]
    shown = [text_of(message) for message in (pair.prompt, *(one.content for one in pair.responses))]
    shown += [pair.responses[0].feedback.critique, pair.comparison.forward_reason, pair.comparison.backward_reason]
    assert all(words and escape(words) in page for words in shown), shown
    assert page.count("y first: <b>y* is better</b>") == page.count("y* first: <b>y* is better</b>") == 3
    assert_harmless(page)
    for review, fields in zip(
        reviews,
        (
            {"decision": "accept"},
            {"decision": "reject", "reason": SCRIPT},
            {"decision": "edit", "text": "better\r\nso"},
        ),
        strict=True,
    ):
        done = await browser.post(place, {"round": "1", "record": review.record_id, **fields}, page=f"/{job.name}")
        assert (done.status_code, done.headers.get("location")) == (303, place), done.text
    page = (await browser.get(place)).text
    assert "All 3 pairs are reviewed: the job goes on." in page
    assert_harmless(page)
    decided = [review async for review in stack.alignment.list_pair_reviews(job.name)]
    assert [review.decision for review in decided] == [
        PairReview.DECISION_ACCEPTED,
        PairReview.DECISION_REJECTED,
        PairReview.DECISION_EDITED,
    ]
    assert (decided[1].reason, text_of(decided[2].refinement)) == (SCRIPT, "better\nso")
    job = await asyncio.wait_for(stack.end_of(job.name), SECONDS)
    assert job.state == job.STATE_SUCCEEDED, job.error
    late = await browser.post(place, {"round": "1", "record": reviews[0].record_id, "decision": "reject"})
    assert (late.status_code, "REVIEW_CLOSED" in late.text) == (409, True)


async def test_a_decision_is_changed_until_the_job_goes_on(reviewing: Reviewing, browser: Browser) -> None:
    stack = reviewing.stack
    job, (first, second) = await waiting(stack, prompts=4, review=ReviewSettings(sample=0.5, min_agreement=0.0))
    place, fields = f"/{job.name}/reviews", {"round": "1", "record": first.record_id}
    await browser.post(place, {**fields, "decision": "edit", "text": "a better answer", "reason": SCRIPT})
    page = (await browser.get(place)).text
    assert "1 pair waits for you" in page
    again = unescape(re.search(r'href="([^"]+again=[^"]+)"', page)[1])
    page = (await browser.get(again)).text
    assert page.count("<article") == 1 and f'aria-label="Pair {first.record_id}"' in page
    assert "You decide again" in page and ">a better answer</textarea>" in page and "edited by" in page
    assert_harmless(page)
    assert (await browser.post(place, {**fields, "decision": "reject"})).status_code == 303
    (changed, _) = [review async for review in stack.alignment.list_pair_reviews(job.name)]
    assert (changed.decision, changed.HasField("refinement")) == (PairReview.DECISION_REJECTED, False)
    await browser.post(place, {**fields, "record": second.record_id, "decision": "accept"})
    assert "again=" not in (await browser.get(place)).text
    assert "You decide again" not in (await browser.get(again)).text
    late = await browser.post(place, {**fields, "decision": "accept"})
    assert (late.status_code, "REVIEW_CLOSED" in late.text) == (409, True)
    job = await asyncio.wait_for(stack.end_of(job.name), SECONDS)
    assert job.state == job.STATE_SUCCEEDED, job.error


async def test_a_decision_needs_the_secret_and_a_known_pair(reviewing: Reviewing, browser: Browser) -> None:
    stack = reviewing.stack
    job, reviews = await waiting(stack, prompts=2, review=ReviewSettings(sample=0.5))
    place, fields = f"/{job.name}/reviews", {"round": "1", "record": reviews[0].record_id, "decision": "accept"}
    refused = await browser.http.post(place, data=fields)
    assert (refused.status_code, "CSRF_MISSING" in refused.text) == (403, True)
    for wrong, status in (({"decision": "like"}, 400), ({"round": "²"}, 400), ({"record": "another"}, 404)):
        assert (await browser.post(place, {**fields, **wrong})).status_code == status
    gone = await browser.post(place, {**fields, "record": "another", "decision": "edit", "text": "x"})
    assert gone.status_code == 404
    assert (await browser.get("/projects/default/alignmentJobs/absent/reviews")).status_code == 404


def test_an_edit_keeps_the_media_of_the_refinement() -> None:
    medium = Media(modality=MODALITY_IMAGE, mime_type="image/png", sha256="a" * 64)
    record = Record(responses=[Response(), Response(content=content("old", medium))])
    assert edited(record, "new") == content("new", medium)
    assert edited(record, " ") == content(medium)
