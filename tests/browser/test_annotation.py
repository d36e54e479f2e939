"""Annotating in a real browser, with the keyboard alone."""

import io

import pytest
from axe_playwright_python.async_playwright import Axe
from PIL import Image
from playwright.async_api import Browser, Page

from omnialign.content import content
from omnialign.v1 import content_pb2, record_pb2
from omnialign.v1.annotation_service_pb2 import Campaign, Task
from tests.browser.conftest import opened
from tests.services.annotation.conftest import filled, pair
from tests.services.console.conftest import Running
from tests.services.console.test_media import sound

pytestmark = pytest.mark.browser

WORDS = "מצוין 👍 clear"
PLAYED = """player => new Promise(done => {
  player.addEventListener("timeupdate", () => { if (player.currentTime > 0.3) done(); });
})"""
SIDEWAYS = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


async def about(console: Running, subtask: str) -> record_pb2.Record:
    """A pair of texts about a picture (`ti2t`) or a sound (`ta2t`)."""
    record = pair(1, subtask=subtask)
    if subtask == "ti2t":
        buffer = io.BytesIO()
        Image.new("RGB", (64, 48), "teal").save(buffer, "PNG")
        medium = await console.client.upload_media(buffer.getvalue(), modality=content_pb2.MODALITY_IMAGE)
    else:
        medium = await console.client.upload_media(sound(8), modality=content_pb2.MODALITY_AUDIO)
    record.prompt.CopyFrom(content(medium, "What is this? " + WORDS))
    record.responses[0].content.CopyFrom(content("a" * 20_000))
    return record


async def campaign(console: Running, subtask: str, *, name: str = "people", overlap: int = 1) -> Campaign:
    """A campaign of one pair."""
    dataset = await console.client.create_dataset(f"pairs-of-{name}")
    await console.client.append_records(dataset.name, [await about(console, subtask)])
    version = await console.client.commit_version(dataset.name)
    fields = {"display_name": "Look and listen", "instructions": "Be fair.", "overlap": overlap, "keep_sides": True}
    return await console.client.create_campaign(name, Campaign(dataset_version=version.name, **fields))


async def leap(page: Page, letter: str) -> None:
    """Presses Alt and a letter as a keyboard does: with the letter that it would write, which Playwright leaves out."""
    session = await page.context.new_cdp_session(page)
    key = {"key": letter, "code": f"Key{letter.upper()}", "windowsVirtualKeyCode": ord(letter.upper()), "modifiers": 1}
    await session.send("Input.dispatchKeyEvent", {"type": "keyDown", "unmodifiedText": letter, **key})
    await session.send("Input.dispatchKeyEvent", {"type": "keyUp", **key})


async def fill_in(page: Page) -> int:
    """Goes through the form from its first field to its last with Tab, and answers each; how many keys it took."""
    keys = 0
    await leap(page, "d")
    await page.wait_for_url("**#dimensions")
    while True:
        await page.keyboard.press("Tab")
        keys += 1
        kind, name = await page.evaluate("[document.activeElement.type, document.activeElement.name]")
        if kind == "radio":
            await page.keyboard.press("Space")
            keys += 1
        elif kind == "textarea":
            await page.keyboard.type(WORDS)
            keys += len(WORDS)
        if name == "reason":
            return keys


async def answer(console: Running, made: Campaign) -> record_pb2.Feedback:
    """What was submitted about the first response."""
    (item,) = [item async for item in console.client.list_items(made.name)]
    (found,) = item.answers
    assert found.state == Task.STATE_SUBMITTED
    assert (found.annotator, found.annotation.preferred, found.annotation.reason) == ("ann-token", 1, WORDS)
    assert len(found.annotation.winners) == len(made.rubrics[0].dimensions)
    assert {score.rationale for score in found.annotation.feedback[0].scores} == {WORDS}
    return found.annotation.feedback[0]


async def test_a_pair_with_a_picture_is_annotated_with_the_keyboard_alone(console: Running, chromium: Browser) -> None:
    made = await campaign(console, "ti2t")
    tab = await opened(chromium, console)
    await tab.sign_in("ann-token")
    page = tab.page
    await page.get_by_role("link", name="Annotation").press("Enter")
    await page.get_by_role("link", name="Look and listen").press("Enter")
    await page.get_by_role("link", name="Annotate").last.press("Enter")
    await page.wait_for_selector("#task")
    assert await fill_in(page) < 700
    region = page.get_by_role("group", name="Mark 1: image in the prompt, part 1").first
    for title, number in (("Left", "10"), ("Top", "20"), ("Width", "30"), ("Height", "40")):
        await region.get_by_label(title).focus()
        await page.keyboard.type(number)
    await page.get_by_text("The pair is yours until").wait_for()
    await tab.screenshot("annotate-ti2t")
    await leap(page, "s")
    await page.get_by_text("nothing left for you").wait_for()
    (mark,) = (await answer(console, made)).marks
    assert [round(edge, 6) for edge in (mark.region.left, mark.region.top)] == [0.1, 0.2]
    assert tab.problems == []


async def test_a_pair_with_a_sound_is_heard_marked_and_annotated_with_the_keyboard_alone(
    console: Running, chromium: Browser
) -> None:
    made = await campaign(console, "ta2t")
    tab = await opened(chromium, console)
    await tab.sign_in("ann-token")
    page = tab.page
    await page.goto(f"/{made.name}/annotate")
    player = page.locator("#player-prompt-0")
    await player.focus()
    await page.keyboard.press("Space")
    await player.evaluate(PLAYED)
    await page.keyboard.press("Space")
    assert await player.evaluate("player => player.paused")
    await page.get_by_role("button", name="Mark 1 of the audio in the prompt, part 1 begins").first.press("Enter")
    await fill_in(page)
    await page.get_by_text("The pair is yours until").wait_for()
    await tab.screenshot("annotate-ta2t")
    await leap(page, "s")
    await page.get_by_text("nothing left for you").wait_for()
    (mark,) = (await answer(console, made)).marks
    assert mark.in_prompt and 0.3 <= mark.span.start_seconds < 8
    assert tab.problems == []


async def test_a_digit_chooses_and_leads_to_the_next_field_that_must_be_filled_in(
    console: Running, chromium: Browser
) -> None:
    made = await campaign(console, "ti2t")
    tab = await opened(chromium, console)
    await tab.sign_in("ann-token")
    page, names = tab.page, [dimension.name for dimension in made.rubrics[0].dimensions]
    await page.goto(f"/{made.name}/annotate")
    await leap(page, "d")
    await page.keyboard.press("Tab")
    for name in names:
        for field, key in ((f"score.1.{name}", "3"), (f"score.2.{name}", "0"), (f"winner.{name}", "2")):
            assert await page.evaluate("document.activeElement.name") == field
            await page.keyboard.press("9")  # chooses nothing
            await page.keyboard.press(key)
    assert await page.evaluate("document.activeElement.name") == "critique.1"
    chosen = await page.evaluate("[...document.querySelectorAll('#task input:checked')].map(one => one.value).join('')")
    assert chosen == "302" * len(names)
    await page.locator("[name=preferred]").first.focus()
    await page.keyboard.press("2")
    await page.keyboard.type("2, for it is right")  # in a text a digit is a digit
    assert await page.locator("#task [name=reason]").input_value() == "2, for it is right"
    await page.get_by_text("The pair is yours until").wait_for()
    assert tab.problems == []


async def test_a_session_that_ends_while_one_writes_costs_nothing(console: Running, chromium: Browser) -> None:
    made = await campaign(console, "ti2t")
    tab = await opened(chromium, console)
    await tab.sign_in("ann-token")
    await tab.page.goto(f"/{made.name}/annotate")
    await tab.page.context.clear_cookies()
    await tab.page.locator("[name='critique.1']").press_sequentially(WORDS)
    await tab.page.wait_for_url("**/sign-in?**")
    await tab.page.get_by_label("Token").press_sequentially("ann-token")
    await tab.page.keyboard.press("Enter")
    await tab.page.wait_for_url("**/annotate")
    assert await tab.page.locator("[name='critique.1']").input_value() == WORDS
    await tab.page.get_by_text("The pair is yours until").wait_for()


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
async def test_pages_of_annotation_have_nothing_that_axe_complains_about_and_fit_400_pixels(
    console: Running, chromium: Browser, dark: bool
) -> None:
    made = await campaign(console, "ta2t", overlap=2)
    for who in ("ann", "bob"):
        task = (await console.client.lease_task(made.name, annotator=who)).task
        annotation = filled(task.rubric, preferred=1 + (who == "bob"), words=WORDS)
        await console.client.submit_task(task.name, annotation, revision=task.revision, annotator=who)
    other = await campaign(console, "ta2t", name="others")
    tab = await opened(chromium, console, dark=dark, width=400, axe=True)
    await tab.sign_in()
    places = {
        "campaigns": "projects/demo/campaigns",
        "campaign": made.name,
        "disagreements": f"{made.name}/items",
        "adjudication": f"{made.name}/items/1",
        "task": f"{other.name}/annotate",
    }
    for name, path in places.items():
        await tab.page.goto(f"/{path}")
        found = await Axe().run(tab.page)
        await tab.screenshot(f"annotation-{name}-{'dark' if dark else 'light'}-400")
        assert found.violations_count == 0, f"{name}: {found.generate_report()}"
        assert await tab.page.evaluate(SIDEWAYS) <= 0, name
