"""Settings of a campaign and the filters of records, in a real browser, with the keyboard and at 400 pixels."""

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser

from omnialign.v1.annotation_service_pb2 import Campaign, LabelMatch, Priority
from tests.browser.conftest import SIDEWAYS, opened
from tests.browser.keyboard import WORDS
from tests.browser.pairs import campaign, pair_of
from tests.services.annotation.conftest import filled
from tests.services.console.conftest import Running

pytestmark = pytest.mark.browser


async def test_a_campaign_is_changed_and_closed_with_the_keyboard_alone(console: Running, chromium: Browser) -> None:
    made = await campaign(console, [await pair_of(console, "ti2t")])
    tab = await opened(chromium, console)
    await tab.sign_in()
    page = tab.page
    await page.goto(f"/{made.name}")
    await page.get_by_role("link", name="Settings").press("Enter")
    await page.get_by_label("Instructions").focus()
    await page.keyboard.type(WORDS)
    await page.get_by_label("Annotations of each pair").focus()
    await page.keyboard.press("ArrowUp")
    await page.keyboard.press("Enter")
    await page.wait_for_url(f"**/{made.name}")
    found = await console.client.get_campaign(made.name)
    assert (found.overlap, WORDS in found.instructions) == (2, True)
    await page.get_by_role("link", name="Settings").press("Enter")
    await page.get_by_role("button", name="Close the campaign").press("Enter")
    await page.get_by_text("This campaign is closed").wait_for()
    assert (await console.client.get_campaign(made.name)).state == Campaign.STATE_CLOSED
    assert tab.problems == []


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
async def test_settings_and_records_have_nothing_that_axe_complains_about_and_fit_400_pixels(
    console: Running, chromium: Browser, dark: bool
) -> None:
    pairs = [await pair_of(console, "ti2t")]
    made = await campaign(console, pairs)
    made.annotators.extend(["ann", "שרה", "a" * 200])
    made.priorities.append(Priority(label=LabelMatch(key="topic", value="law")))
    await console.client.update_campaign(made, ["annotators", "priorities"])
    task = (await console.client.lease_task(made.name, annotator="ann")).task
    await console.client.submit_task(task.name, filled(task.rubric, words=WORDS), revision=0, annotator="ann")
    closed = await campaign(console, pairs, name="closed")
    await console.client.close_campaign(closed.name)
    gone = await campaign(console, pairs, name="gone")
    await console.client.delete_dataset("projects/demo/datasets/pairs-of-gone", force=True)
    tab = await opened(chromium, console, dark=dark, width=400, axe=True)
    await tab.sign_in()
    places = {
        "settings": f"{made.name}/settings",
        "campaign-live": made.name,
        "campaign-closed": closed.name,
        "campaign-gone": gone.name,
        "records-filtered": f"{made.dataset_version}?text=what&min_score=1&start=pair",
        "records-found": f"{made.dataset_version}?modality=image&text=WHAT",
    }
    for name, path in places.items():
        await tab.page.goto(f"/{path}")
        found = await Axe().run(tab.page)
        await tab.screenshot(f"{name}-{'dark' if dark else 'light'}-400")
        assert found.violations_count == 0, f"{name}: {found.generate_report()}"
        assert await tab.page.evaluate(SIDEWAYS) <= 0, name
