"""Trying models in a real browser: files by keyboard and by dropping them, answers as they come, and stopping."""

import io
from pathlib import Path

import pytest
from axe_playwright_python.async_playwright import Axe
from PIL import Image
from playwright.async_api import Browser, FilePayload, Page, expect

from omnialign.content import content, media_of
from omnialign.v1 import record_pb2
from tests.browser.conftest import Tab, opened
from tests.services.console.conftest import Running
from tests.services.console.hostile import SCRIPT
from tests.services.console.test_media import sound
from tests.services.console.test_trying import CRITIC, JUDGE, ONE, OTHER, Held

pytestmark = pytest.mark.browser

PATH = "/projects/demo/try"
WORDS = "ما هذا؟ 🙂 What is this?"
SIDEWAYS = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


def picture() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (120, 80), "teal").save(buffer, "PNG")
    return buffer.getvalue()


async def fill(page: Page, *, files: bool = True) -> None:
    """Fills the form for two models, a feedback model and a judge."""
    await page.get_by_label("Prompt").fill(WORDS)
    if files:
        given: list[FilePayload] = [
            {"name": "circle.png", "mimeType": "image/png", "buffer": picture()},
            {"name": "tone.wav", "mimeType": "audio/wav", "buffer": sound(3)},
        ]
        await page.locator("#files").set_input_files(given)
    await page.get_by_label("Model", exact=True).fill(ONE)
    await page.get_by_label("Another, side by side").fill(OTHER)


async def assess(page: Page) -> None:
    await page.get_by_text("Have the answers assessed").press("Enter")
    await page.get_by_label("Feedback model").fill(CRITIC)
    await page.get_by_label("Judge").fill(JUDGE)


async def opened_form(chromium: Browser, console: Running, **options: bool | int) -> Tab:
    console.models.replies = lambda model, item: content(f"{model} says: {SCRIPT}", *media_of([item.prompt]))
    console.models.orders = lambda _id: (record_pb2.VERDICT_WIN, record_pb2.VERDICT_LOSS)
    tab = await opened(chromium, console, **options)
    await tab.sign_in()
    await tab.page.goto(PATH)
    return tab


async def test_two_models_are_tried_with_the_keyboard_alone(console: Running, chromium: Browser) -> None:
    tab = await opened_form(chromium, console)
    page = tab.page
    await fill(page)
    await page.get_by_label("Another, side by side").press("Enter")
    await page.get_by_role("article", name="Answer 2").wait_for()
    assert await page.locator("article.answer1 img").count() == 1
    left, right = [await page.locator(f"article.answer{side}").bounding_box() for side in (1, 2)]
    assert left is not None and right is not None and left["x"] + left["width"] <= right["x"]  # side by side
    await page.get_by_label("Feedback model").last.fill(CRITIC)
    await page.get_by_label("Judge").last.fill(JUDGE)
    await page.get_by_role("button", name="Assess").press("Enter")
    await page.get_by_role("article", name="Judgement").wait_for()
    await page.wait_for_load_state("load")
    assert await page.locator(".wait:visible").count() == 0
    await expect(page.locator("#stop")).to_be_hidden()
    assert [rpc for rpc, _ in console.models.asked].count("Generate") == 2  # the answers were kept
    await tab.screenshot("try-assessed-light")
    assert tab.problems == []


async def test_answers_appear_while_they_are_written_and_stopping_stops_the_models(
    console: Running, chromium: Browser
) -> None:
    console.models.deltas = ["It is ", "a teal "]
    console.models.hold("Finish")
    held = console.models.holds["Finish"] = Held()
    tab = await opened_form(chromium, console)
    await fill(tab.page)
    await assess(tab.page)
    await tab.page.get_by_role("button", name="Ask").click(no_wait_after=True)
    await expect(tab.page.get_by_role("article", name="Draft of answer 2")).to_contain_text("It is")
    await tab.screenshot("try-waiting-light")
    await tab.page.get_by_role("button", name="Stop").click()
    await held.cancelled.wait()
    assert await tab.page.get_by_text("Stopped.").count() > 0
    await expect(tab.page.get_by_role("article", name="Draft of answer 1")).to_be_visible()


async def test_files_are_dropped_on_the_form(console: Running, chromium: Browser, tmp_path: Path) -> None:
    tab = await opened_form(chromium, console)
    await fill(tab.page, files=False)
    for name, data in (("a.png", picture()), ("b.wav", sound())):
        (tmp_path / name).write_bytes(data)
    await drop(tab.page, [str(tmp_path / "a.png"), str(tmp_path / "b.wav")])
    await tab.page.get_by_role("button", name="Ask").click()
    await tab.page.get_by_role("article", name="Answer 2").wait_for()
    await tab.page.wait_for_load_state("load")
    assert await tab.page.get_by_role("checkbox").count() == 2


async def drop(page: Page, files: list[str]) -> None:
    """Drops files on the form's field, as a file manager does."""
    place = await page.locator("#files").bounding_box()
    assert place is not None
    session = await page.context.new_cdp_session(page)
    where = {"x": place["x"] + place["width"] / 2, "y": place["y"] + place["height"] / 2}
    data = {"items": [], "files": files, "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        await session.send("Input.dispatchDragEvent", {"type": kind, **where, "data": data})


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
async def test_the_page_has_nothing_that_axe_complains_about_and_fits_400_pixels(
    console: Running, chromium: Browser, dark: bool
) -> None:
    tab = await opened_form(chromium, console, dark=dark, width=400, axe=True)
    page, word = tab.page, "dark" if dark else "light"
    await tab.screenshot(f"try-{word}-400")
    await check(tab, "form")
    await fill(page)
    await assess(page)
    await page.get_by_role("button", name="Ask").click()
    await page.get_by_role("article", name="Judgement").wait_for()
    await page.wait_for_load_state("networkidle")
    await tab.screenshot(f"try-answered-{word}-400")
    await check(tab, "answers")
    await page.locator("#files").set_input_files([{"name": SCRIPT, "mimeType": "image/svg+xml", "buffer": b"<svg/>"}])
    await page.get_by_role("button", name="Ask").click()
    await page.get_by_text("MEDIA_TYPE_UNSUPPORTED").wait_for()
    await tab.screenshot(f"try-refused-{word}-400")
    await check(tab, "refused")


async def check(tab: Tab, where: str) -> None:
    found = await Axe().run(tab.page)
    assert found.violations_count == 0, f"{where}: {found.generate_report()}"
    assert await tab.page.evaluate(SIDEWAYS) <= 0, where


async def test_the_form_works_without_scripts(console: Running, chromium: Browser) -> None:
    console.models.replies = lambda model, _item: content(f"I am {model}")
    context = await chromium.new_context(base_url=console.web.address, java_script_enabled=False)
    tab = Tab(await context.new_page())
    await tab.sign_in()
    await tab.page.goto(PATH)
    await fill(tab.page)
    await assess(tab.page)
    await tab.page.get_by_role("button", name="Ask").click()
    await tab.page.get_by_role("article", name="Judgement").wait_for()
    assert await tab.page.get_by_text(f"I am {ONE}").is_visible()
    assert await tab.page.locator(".wait:visible").count() == 0
