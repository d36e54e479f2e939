"""A form that begins with a model's draft, in a real browser and with the keyboard alone."""

from pathlib import Path

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser

from omnialign.v1.annotation_pb2 import ORIGIN_ACCEPTED, ORIGIN_EDITED, ORIGIN_OWN, ORIGIN_REJECTED
from tests.browser.conftest import SIDEWAYS, opened
from tests.browser.keyboard import leap
from tests.services.annotation.conftest import pair
from tests.services.console.conftest import Running
from tests.services.console.test_annotation import MODEL, campaign, drafted

pytestmark = pytest.mark.browser


async def test_a_draft_is_accepted_edited_and_rejected_by_keyboard(
    console: Running, chromium: Browser, tmp_path: Path
) -> None:
    made = await campaign(console, pair(1), start_from=f"{MODEL}judge")
    await drafted(tmp_path, made)
    tab = await opened(chromium, console)
    await tab.sign_in("ann-token")
    page = tab.page
    await page.goto(f"/{made.name}/annotate")
    assert "v1#judge, which was asked in both orders" in await page.locator("#draft").inner_text()
    await page.locator('[name="critique.1"]').focus()
    await page.keyboard.press("End")
    await page.keyboard.type(" Edited.")
    await page.locator('[name="origin.critique.2"]').first.focus()
    await page.keyboard.press("ArrowRight")  # from accept to reject, which empties the text
    assert await page.locator('[name="critique.2"]').input_value() == ""
    await page.locator('[name="critique.2"]').focus()
    await page.keyboard.type("My own.")
    await page.locator('[name="winner.clarity"]').first.focus()
    await page.keyboard.press("Space")
    await leap(page, "a")
    await page.wait_for_selector('[name="origin.overall"][value="accepted"]:checked')
    assert await page.locator('[name="origin.critique.2"][value="rejected"]').is_checked()
    assert await page.locator('[name="critique.2"]').input_value() == "My own."
    await tab.screenshot("annotate-draft")
    await leap(page, "s")
    await page.wait_for_url("**after=submit")
    (item,) = [item async for item in console.client.list_items(made.name)]
    origins = item.answers[0].annotation.origins
    parts = ("critique.1", "critique.2", "winner.clarity", "winner.safety")
    assert [origins[part] for part in parts] == [ORIGIN_EDITED, ORIGIN_REJECTED, ORIGIN_OWN, ORIGIN_ACCEPTED]
    assert tab.problems == []


@pytest.mark.parametrize("dark", [False, True])
async def test_forms_with_drafts_and_the_agreement_of_models_fit_400_pixels(
    console: Running, chromium: Browser, tmp_path: Path, dark: bool
) -> None:
    made = await campaign(console, pair(1), start_from=f"{MODEL}{'judge' * 40}")
    await drafted(tmp_path, made)
    task = (await console.client.lease_task(made.name, annotator="bob")).task
    task.annotation.winners["clarity"] = 1
    for name in ("preferred", "reason", *(f"{text}.{side}" for text in ("critique", "refinement") for side in (1, 2))):
        task.annotation.origins[name] = ORIGIN_ACCEPTED
    for one in task.rubric.dimensions:
        for part in (f"winner.{one.name}", f"score.1.{one.name}", f"score.2.{one.name}"):
            task.annotation.origins[part] = ORIGIN_ACCEPTED
    await console.client.submit_task(task.name, task.annotation, revision=0, annotator="bob")
    tab = await opened(chromium, console, dark=dark, width=400, axe=True)
    await tab.sign_in()
    for name, path in (
        ("campaign-models", made.name),
        ("item-drafts", f"{made.name}/items/1"),
    ):
        await tab.page.goto(f"/{path}")
        found = await Axe().run(tab.page)
        assert found.response["violations"] == [], name
        assert await tab.page.evaluate(SIDEWAYS) == 0, name
        await tab.screenshot(f"{name}-{'dark' if dark else 'light'}")
