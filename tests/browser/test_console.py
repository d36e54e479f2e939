"""The console in a real browser: by keyboard, for screen readers, light and dark, on a small screen."""

from pathlib import Path

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, expect

from tests.browser.conftest import opened
from tests.browser.content import fill_console
from tests.browser.keyboard import follow, press
from tests.browser.pairs import SECONDS
from tests.services.console.conftest import Running

pytestmark = pytest.mark.browser

SIZES = """["navigation", "resource"]
.flatMap(kind => performance.getEntriesByType(kind)).map(one => one.decodedBodySize)"""
"""Bytes of a page and of what it loaded, whether the browser had it already or not."""
WIDE = """[...document.querySelectorAll('main *')].filter(one => one.scrollWidth > one.clientWidth + 1
&& !one.closest('.scroll, pre, .log') && getComputedStyle(one).overflowX === 'visible' && one.clientWidth)
.map(one => one.outerHTML.slice(0, 120))"""
"""What is wider than its place, unless it scrolls by itself."""
CUT = "[...document.querySelectorAll('th[scope=row]')].filter(one => one.scrollWidth > one.clientWidth + 1)"
"""Names in lists that run over what stands beside them."""


def picture_name(page: str) -> str:
    """A file name for the picture of a page."""
    return page.partition("?name=")[0].removeprefix("/projects/demo/").replace("/", "-").replace("?only=", "-")


async def test_a_person_signs_in_and_reaches_the_content_with_the_keyboard_alone(
    console: Running, chromium: Browser
) -> None:
    tab = await opened(chromium, console)
    await tab.sign_in()
    await tab.page.keyboard.press("Tab")
    focused = tab.page.locator(":focus")
    assert await focused.inner_text() == "To the content"
    assert await focused.is_visible()
    await tab.page.keyboard.press("Enter")
    assert await tab.page.locator("main#content").evaluate("main => main === document.activeElement")
    assert tab.problems == []


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
async def test_no_page_has_anything_that_axe_complains_about(
    console: Running, chromium: Browser, tmp_path: Path, dark: bool
) -> None:
    pages = await fill_console(console, tmp_path)
    tab = await opened(chromium, console, dark=dark, axe=True)
    await tab.sign_in()
    found = {}
    for page in pages:
        answer = await tab.page.goto(page, wait_until="load")
        assert answer is not None
        assert answer.status == 200, page
        await tab.screenshot(f"{picture_name(page)}-{'dark' if dark else 'light'}")
        result = await Axe().run(tab.page)
        assert result.response["passes"], page  # it did look
        if result.violations_count:
            found[page] = result.generate_report()
    assert not found, "\n".join(f"{page}\n{report}" for page, report in found.items())


async def test_every_page_fits_a_screen_of_400_pixels(console: Running, chromium: Browser, tmp_path: Path) -> None:
    pages = await fill_console(console, tmp_path)
    tab = await opened(chromium, console, width=400)
    await tab.sign_in()
    wide = {}
    for page in pages:
        await tab.page.goto(page, wait_until="load")
        await tab.screenshot(f"{picture_name(page)}-400")
        if await tab.page.evaluate("document.documentElement.scrollWidth") > 400:
            wide[page] = await tab.page.evaluate(WIDE)
        assert await tab.page.evaluate(f"{CUT}.length") == 0, page
    assert not wide


async def test_no_page_runs_what_others_wrote_or_breaks_its_own_policy(
    console: Running, chromium: Browser, tmp_path: Path
) -> None:
    pages = await fill_console(console, tmp_path)
    tab, dialogs = await opened(chromium, console), list[str]()
    tab.page.on("dialog", lambda dialog: dialogs.append(dialog.message))
    await tab.sign_in()
    for page in pages:
        await tab.page.goto(page, wait_until="load")
        assert tab.problems == [], page  # Chromium says there what a policy kept from running
    assert dialogs == []


async def test_a_sound_plays_from_the_middle_by_range_requests(
    console: Running, chromium: Browser, tmp_path: Path
) -> None:
    await fill_console(console, tmp_path)
    tab = await opened(chromium, console)
    await tab.sign_in()
    await tab.page.goto("/projects/demo/datasets/scenes/versions/1", wait_until="load")
    player = tab.page.locator("audio").first
    await player.evaluate(
        "one => new Promise((ready, failed) => { one.onloadedmetadata = ready; "
        "one.onerror = () => failed(one.error.message); one.preload = 'auto'; one.load(); })"
    )
    assert await player.evaluate("one => one.duration") == pytest.approx(SECONDS, abs=0.05)
    await player.evaluate("one => new Promise(done => { one.onseeked = done; one.currentTime = 0.5; })")
    assert await player.evaluate("one => one.currentTime") == pytest.approx(0.5, abs=0.05)


async def test_lineage_is_followed_both_ways_with_the_keyboard_alone(
    console: Running, chromium: Browser, tmp_path: Path
) -> None:
    await fill_console(console, tmp_path)
    tab = await opened(chromium, console)
    await tab.sign_in()
    page = tab.page
    await follow(page, "nav a[href$='/models']")
    await follow(page, "main a[href$='/models/base/versions/1']")
    came_from = page.get_by_role("region", name="It came from", exact=True)
    came_of = page.get_by_role("region", name="What came from it", exact=True)
    await expect(came_from).to_contain_text("scenes/1")
    await expect(came_of).to_contain_text("first")
    await follow(page, "main a[href*='lineage?name='][href*='scenes']")
    await expect(page.locator("h1")).to_contain_text("Lineage of scenes/1")
    await expect(came_of).to_contain_text("base/1")
    await follow(page, "main a[href*='lineage?name='][href*='models']")
    await expect(page.locator("h1")).to_contain_text("Lineage of base/1")
    await expect(came_from).to_contain_text("scenes/1")
    assert tab.problems == []


async def test_what_was_set_aside_is_browsed_by_reason_with_the_keyboard_alone(
    console: Running, chromium: Browser, tmp_path: Path
) -> None:
    await fill_console(console, tmp_path)
    tab = await opened(chromium, console)
    await tab.sign_in()
    page = tab.page
    await follow(page, "nav a[href$='/datasets']")
    await follow(page, "main a[href$='/datasets/brought']")
    await follow(page, "main a[href$='/datasets/brought/quarantine']")
    await expect(page.locator("article")).to_have_count(2)
    await tab.document("quarantine")
    await follow(page, "main a[href*='?reason=']")
    await expect(page.locator("article")).to_have_count(1)
    await press(page, "article summary")
    await expect(page.locator("article pre")).to_be_visible()
    assert tab.problems == []


async def test_the_report_of_a_job_opens_with_the_keyboard_alone_and_runs_nothing(
    console: Running, chromium: Browser, tmp_path: Path
) -> None:
    await fill_console(console, tmp_path)
    tab, dialogs = await opened(chromium, console), list[str]()
    await tab.sign_in()
    tab.page.context.on("dialog", lambda dialog: dialogs.append(dialog.message))
    await tab.page.goto("/projects/demo/alignmentJobs/job-4")
    async with tab.page.context.expect_page() as opening:
        await press(tab.page, "#open-report")
    report = await opening.value
    await expect(report.locator("h1")).to_have_text("What the job did")
    assert dialogs == []


async def test_a_first_page_weighs_at_most_150_kilobytes(console: Running, chromium: Browser, tmp_path: Path) -> None:
    await fill_console(console, tmp_path)
    tab = await opened(chromium, console)
    await tab.sign_in()
    for page in ("/sign-in", "/"):
        await tab.page.goto(page, wait_until="networkidle")
        sizes = await tab.page.evaluate(SIZES)
        assert len(sizes) >= 4, page  # the page, its style, its scripts
        assert 0 < sum(sizes) <= 150 * 1024, page
