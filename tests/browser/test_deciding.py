"""What becomes of annotations, in a real browser: agreement, adjudication, the commit, and the files."""

import json
import zipfile
from pathlib import Path

import pytest
from playwright.async_api import Browser, expect

from omnialign.v1.annotation_service_pb2 import Campaign
from tests.browser.conftest import opened
from tests.browser.keyboard import WORDS, follow, press, tab_to
from tests.browser.pairs import campaign, pair_of
from tests.services.annotation.conftest import filled
from tests.services.console.conftest import Running

pytestmark = pytest.mark.browser

LIVE_MILLISECONDS = 30_000
REASON = "It answers what was asked."


async def annotate(console: Running, made: Campaign, who: str, *preferred: int) -> None:
    """Somebody else annotates the next pairs, each for one side."""
    for side in preferred:
        task = (await console.client.lease_task(made.name, annotator=who)).task
        annotation = filled(task.rubric, preferred=side, scores=(3, 1) if side == 1 else (1, 3), words=REASON)
        await console.client.submit_task(task.name, annotation, revision=task.revision, annotator=who)


async def test_a_disagreement_is_seen_live_decided_by_keyboard_committed_and_exported(
    console: Running, chromium: Browser, tmp_path: Path
) -> None:
    pairs = [await pair_of(console, "t2t"), await pair_of(console, "ta2t")]
    made = await campaign(console, pairs, overlap=2)
    tab = await opened(chromium, console)
    await tab.sign_in()
    page = tab.page
    await page.goto(f"/{made.name}")
    live = page.locator("#live")
    await expect(live).to_contain_text("0 of 4 annotations")
    await annotate(console, made, "ann", 1, 1)
    await annotate(console, made, "bob", 2, 1)
    # The page looks by itself: nothing is loaded again by us.
    await expect(live).to_contain_text("4 of 4 annotations", timeout=LIVE_MILLISECONDS)
    await expect(live).to_contain_text("of 2 comparisons")
    await tab.document("campaign")

    await follow(page, "#adjudicate")
    await follow(page, f"main a[href='/{made.name}/items/1']")
    await tab.document("adjudicating")
    await tab_to(page, "[name='decision']")
    await page.keyboard.press("ArrowDown")
    assert await page.evaluate("document.activeElement.value") == "annotator.bob"
    await tab_to(page, "textarea[name='why']")
    await page.keyboard.type(WORDS)
    await follow(page, "button.main")
    await expect(page.locator("main")).to_contain_text("No pair is like that.")

    await follow(page, f".crumbs a[href='/{made.name}']")
    await follow(page, "#commit")
    await expect(page.locator("h1")).to_have_text("Committed")
    await expect(page.locator(".lead")).to_contain_text("2 pairs are in")
    await expect(page.locator("main")).to_contain_text("omnialign annotate export people")
    async with page.expect_download() as begun:
        await press(page, "form[action$='/export'] button")
    await (await begun.value).save_as(tmp_path / "export.zip")
    await follow(page, ".lead a")
    await expect(page.locator("article").first).to_contain_text("adjudicator: alice-token")
    assert tab.problems == []

    with zipfile.ZipFile(tmp_path / "export.zip") as files:
        (row,) = map(json.loads, files.read("text-to-text.jsonl").splitlines())
        assert [name for name in files.namelist() if name.startswith("media/")]
    assert (row["overall_response"], row["prompt_following_rate_2"]) == (2, 3)
    assert row["overall_textfeedback"] == f"##Reason: {REASON}"
