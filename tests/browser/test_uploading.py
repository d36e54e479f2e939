"""Uploading files in a real browser: chosen with the keyboard, dropped, and without scripts."""

import json
from pathlib import Path

import pytest
from axe_playwright_python.async_playwright import Axe
from PIL import Image
from playwright.async_api import Browser, Page

from tests.browser.conftest import Tab, opened
from tests.services.console.conftest import Running

pytestmark = pytest.mark.browser

PLACE = "/projects/demo/new-dataset"


def cats(root: Path) -> Path:
    """A folder with a table, of whose two rows one names a picture that is not there."""
    folder = root / "cats" / "images"
    folder.mkdir(parents=True)
    for name, color in (("a", "teal"), ("b", "maroon")):
        Image.new("RGB", (64, 48), color).save(folder / f"{name}.png")
    row = {"prompt": "A <b>cat</b>", "image_1": "a.png", "image_2": "b.png", "overall_image": 2}
    rows = (row, {**row, "image_2": "gone.png"})
    (root / "cats" / "text-to-image.jsonl").write_text("".join(f"{json.dumps(one)}\n" for one in rows))
    return root / "cats"


async def drop(page: Page, *paths: Path) -> None:
    """Drops files and folders of this machine on the form, as a file manager does."""
    box = await page.locator("#drop").bounding_box()
    assert box
    session = await page.context.new_cdp_session(page)
    data = {"items": [], "files": [str(path) for path in paths], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        event = {"type": kind, "x": box["x"] + 20, "y": box["y"] + 20, "data": data}
        await session.send("Input.dispatchDragEvent", event)


async def named(tab: Tab, dataset: str) -> None:
    await tab.page.goto(PLACE)
    await tab.page.get_by_label("Dataset", exact=True).focus()
    await tab.page.keyboard.type(dataset)


async def imported(tab: Tab) -> None:
    """The result is there, and leads to the version with its pictures and to what was set aside."""
    page = tab.page
    await page.locator("#version").wait_for()
    assert "Imported 1 of 2 rows," in await page.locator(".step").last.inner_text()
    assert await page.locator(".step").first.is_hidden()
    await page.locator("#version").click()
    await page.wait_for_url("**/versions/1")
    assert await page.locator("figure img").count() == 2
    await page.goto(page.url.replace("versions/1", "quarantine"))
    assert "gone.png" in await page.locator("main").inner_text()
    assert tab.problems == []


async def test_a_folder_that_is_dropped_becomes_a_version(console: Running, chromium: Browser, tmp_path: Path) -> None:
    tab = await opened(chromium, console)
    await tab.sign_in()
    await named(tab, "asked")
    await drop(tab.page, cats(tmp_path))
    await tab.page.get_by_text("Dropped: 3 files").wait_for()
    await tab.screenshot("new-dataset-dropped")
    await tab.page.get_by_role("button", name="Upload and import").press("Enter")
    await tab.page.locator("#version").wait_for()
    await tab.screenshot("new-dataset-done")
    await imported(tab)


async def test_a_folder_is_chosen_without_scripts(console: Running, chromium: Browser, tmp_path: Path) -> None:
    context = await chromium.new_context(base_url=console.web.address, java_script_enabled=False)
    tab = Tab(await context.new_page())
    await tab.sign_in()
    await named(tab, "asked")
    await tab.page.get_by_label("Or a folder").set_input_files(cats(tmp_path))
    await tab.page.get_by_role("button", name="Upload and import").press("Enter")
    await imported(tab)


async def test_what_is_refused_is_said_on_the_page_and_mended_there(
    console: Running, chromium: Browser, tmp_path: Path
) -> None:
    row = {"question": "?", "response_1": "1", "response_2": "2", "overall_response": 1}
    (tmp_path / "mine.jsonl").write_text(json.dumps(row))
    tab = await opened(chromium, console, axe=True, width=400)
    await tab.sign_in()
    await named(tab, "asked")
    await tab.page.get_by_role("button", name="Upload and import").press("Enter")
    await tab.page.get_by_text("Choose files, or drop them").wait_for()
    await tab.page.get_by_label("Files", exact=True).set_input_files(tmp_path / "mine.jsonl")
    await tab.page.get_by_role("button", name="Upload and import").press("Enter")
    await tab.page.get_by_text("SUBTASK_UNKNOWN").wait_for()
    await tab.screenshot("new-dataset-refused-400")
    assert await tab.page.evaluate("document.documentElement.scrollWidth") <= 400
    result = await Axe().run(tab.page)
    assert not result.violations_count, result.generate_report()
    again = tab.page.locator("#import form")
    await again.get_by_label("Subtask").fill("t2t")
    await again.get_by_role("button").press("Enter")
    await tab.page.locator("#version").wait_for()
    await tab.page.goto("/projects/demo/datasets/asked/versions/1")
    assert await tab.page.locator("article").count() == 1
