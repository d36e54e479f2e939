"""The review of a job's pairs in a real browser, before the real alignment service."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, expect

from omnialign.v1.alignment_service_pb2 import PairReview, ReviewSettings
from tests.browser.conftest import opened_at
from tests.browser.keyboard import WORDS, follow, press, tab_to
from tests.service_stack import SECONDS
from tests.services.alignment.test_review import waiting
from tests.services.console.reviewing import Reviewing, reviewed

pytestmark = pytest.mark.browser

DONE_MILLISECONDS = round(1000 * SECONDS)


@pytest.fixture
async def plain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Reviewing]:
    async with reviewed(tmp_path, monkeypatch, reason="It says what the critique asks for.") as found:
        yield found


@pytest.fixture
async def reviewing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Reviewing]:
    async with reviewed(tmp_path, monkeypatch) as found:
        yield found


async def test_pairs_are_reviewed_with_the_keyboard_alone_and_the_page_of_the_job_goes_on(
    plain: Reviewing, chromium: Browser
) -> None:
    stack = plain.stack
    job, reviews = await waiting(stack, prompts=6, review=ReviewSettings(sample=0.5, min_agreement=0.0))
    tab = await opened_at(chromium, plain.address)
    page = tab.page
    await page.goto(f"/{job.name}")
    await follow(page, "#review")
    await tab.document("review")

    first = f"article[aria-label='Pair {reviews[0].record_id}']"
    await tab_to(page, f"{first} [name='reason']")
    await page.keyboard.type(WORDS)
    await follow(page, f"{first} [value='accept']")
    await expect(page.locator(".lead")).to_contain_text("2 pairs wait")
    await follow(page, f"article[aria-label='Pair {reviews[1].record_id}'] [value='reject']")
    await expect(page.locator(".lead")).to_contain_text("1 pair waits")
    third = f"article[aria-label='Pair {reviews[2].record_id}']"
    await press(page, f"{third} summary")
    await tab_to(page, f"{third} [name='text']")
    await page.keyboard.press("Control+A")
    await page.keyboard.type(WORDS)
    await follow(page, f"{third} [value='edit']")
    await expect(page.locator(".lead")).to_contain_text("All 3 pairs are reviewed")
    decided = [review async for review in stack.alignment.list_pair_reviews(job.name)]
    assert [review.decision for review in decided] == [
        PairReview.DECISION_ACCEPTED,
        PairReview.DECISION_REJECTED,
        PairReview.DECISION_EDITED,
    ]
    assert decided[0].reason == WORDS
    await follow(page, ".actions a.button")
    await expect(page.locator("#live p").first).to_contain_text("succeeded", timeout=DONE_MILLISECONDS)
    await asyncio.wait_for(stack.end_of(job.name), SECONDS)
    assert tab.problems == []


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
async def test_the_page_of_a_review_is_clean_and_fits_400_pixels(
    reviewing: Reviewing, chromium: Browser, dark: bool
) -> None:
    job, reviews = await waiting(reviewing.stack, prompts=4, review=ReviewSettings(sample=0.5))
    tab = await opened_at(chromium, reviewing.address, dark=dark, width=400, axe=True)
    dialogs = list[str]()
    tab.page.on("dialog", lambda dialog: dialogs.append(dialog.message))
    await reviewing.stack.alignment.review_pair(job.name, reviews[0].record_id, PairReview.DECISION_ACCEPTED)
    await tab.page.goto(f"/{job.name}/reviews")
    await tab.screenshot(f"review-{'dark' if dark else 'light'}-400")
    found = await Axe().run(tab.page)
    assert found.violations_count == 0, found.generate_report()
    assert await tab.page.evaluate("document.documentElement.scrollWidth") <= 400
    assert dialogs == []  # the judge wrote a script
