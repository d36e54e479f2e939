"""The console in a real browser: by keyboard, for screen readers, light and dark, on a small screen."""

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser

from omnialign.v1 import alignment_service_pb2
from tests.browser.conftest import opened
from tests.services.console.conftest import Running

pytestmark = pytest.mark.browser

Job = alignment_service_pb2.AlignmentJob
HOSTILE = "<img src=x onerror=alert(1)>"
PLACES = ("jobs",)
SIZES = """["navigation", "resource"]
.flatMap(kind => performance.getEntriesByType(kind)).map(one => one.decodedBodySize)"""
"""Bytes of a page and of what it loaded, whether the browser had it already or not."""


def with_jobs(console: Running) -> None:
    """A few jobs, one of them with a name of its own making."""
    for number, state in enumerate((Job.STATE_RUNNING, Job.STATE_SUCCEEDED, Job.STATE_FAILED)):
        job = Job(name=f"projects/demo/alignmentJobs/job-{number}", state=state)
        job.spec.base_model = HOSTILE
        job.create_time.GetCurrentTime()
        job.stages.add(stage="sample", state=2, completed=3, total=8)
        console.jobs.add(job)


async def test_a_person_signs_in_and_walks_through_the_sections_with_the_keyboard_alone(
    console: Running, chromium: Browser
) -> None:
    with_jobs(console)
    tab = await opened(chromium, console)
    await tab.sign_in()
    await tab.page.keyboard.press("Tab")
    focused = tab.page.locator(":focus")
    assert await focused.inner_text() == "To the content"
    assert await focused.is_visible()
    await tab.page.keyboard.press("Enter")
    assert await tab.page.locator("main#content").evaluate("main => main === document.activeElement")
    assert tab.problems == []


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
async def test_a_page_has_nothing_that_axe_complains_about(
    console: Running, chromium: Browser, place: str, dark: bool
) -> None:
    with_jobs(console)
    tab = await opened(chromium, console, dark=dark, axe=True)
    await tab.sign_in()
    await tab.page.goto(f"/projects/demo/{place}")
    found = await Axe().run(tab.page)
    await tab.screenshot(f"{place}-{'dark' if dark else 'light'}")
    assert found.violations_count == 0, found.generate_report()


@pytest.mark.parametrize("place", PLACES)
async def test_a_page_fits_a_screen_of_400_pixels(console: Running, chromium: Browser, place: str) -> None:
    with_jobs(console)
    tab = await opened(chromium, console, width=400)
    await tab.sign_in()
    await tab.page.goto(f"/projects/demo/{place}")
    await tab.screenshot(f"{place}-400")
    assert await tab.page.evaluate("document.documentElement.scrollWidth") <= 400


@pytest.mark.parametrize("place", PLACES)
async def test_a_page_runs_no_script_of_others_and_needs_none_of_its_own_inline(
    console: Running, chromium: Browser, place: str
) -> None:
    with_jobs(console)
    tab = await opened(chromium, console)
    dialogs = []
    tab.page.on("dialog", lambda dialog: dialogs.append(dialog.message))
    await tab.sign_in()
    await tab.page.goto(f"/projects/demo/{place}")
    await tab.page.wait_for_load_state("networkidle")
    assert dialogs == []
    assert tab.problems == []  # Chromium says there what a policy kept from running


async def test_a_first_page_weighs_at_most_150_kilobytes(console: Running, chromium: Browser) -> None:
    with_jobs(console)
    tab = await opened(chromium, console)
    await tab.sign_in()
    await tab.page.goto("/projects/demo/jobs", wait_until="networkidle")
    sizes = await tab.page.evaluate(SIZES)
    assert len(sizes) >= 4  # the page, its style, its scripts
    assert 0 < sum(sizes) <= 150 * 1024
