"""The leader board in a real browser: sorted by keyboard, light and dark, on a small screen."""

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser

from tests.browser.conftest import opened
from tests.services.console.conftest import Running
from tests.services.console.test_leader_board import BASE, BEST, TUNED, evaluation

pytestmark = pytest.mark.browser

SIDEWAYS = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
async def test_the_board_is_sorted_by_keyboard_and_fits_400_pixels(
    console: Running, chromium: Browser, dark: bool
) -> None:
    groups = [(BEST, "correct", 0.5, 0.2, group) for group in ("ti2t", "t2i", "t2a")]
    console.jobs.add(evaluation("first", (BASE, "correct", 0.3, 0.05, ""), (TUNED, "correct", 0.6, 0.1, ""), day=1))
    console.jobs.add(
        evaluation("second", (BEST, "correct", 0.7, 0.1, ""), (BEST, "share", 0.8, 0.1, ""), *groups, day=2)
    )
    tab = await opened(chromium, console, dark=dark, width=400, axe=True)
    await tab.sign_in()
    page, word = tab.page, "dark" if dark else "light"
    await page.goto("/projects/demo/evaluations")
    await page.get_by_role("link", name="Leader board").press("Enter")
    rows = page.locator("tbody th")
    assert "best" in await rows.first.inner_text()
    await tab.screenshot(f"leader-board-{word}-400")
    await page.locator("th[aria-sort] a").press("Enter")
    await page.wait_for_url("**order=rising**")
    assert "base" in await rows.first.inner_text()
    found = await Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
    assert await page.evaluate(SIDEWAYS) <= 0
    await page.set_viewport_size({"width": 1280, "height": 900})
    await tab.screenshot(f"leader-board-{word}")
    await page.get_by_role("link", name="By group").press("Enter")
    await page.wait_for_url("**groups=1**")
    assert (await Axe().run(page)).violations_count == 0
