"""Annotating in a real browser, with the keyboard alone: a pair of each subtask."""

import pytest
from playwright.async_api import Browser

from omnialign.rubrics import SUBTASKS
from omnialign.v1.annotation_service_pb2 import Campaign, Task
from omnialign.v1.record_pb2 import Feedback
from tests.browser.conftest import opened
from tests.browser.keyboard import WORDS, fill_in, follow, leap, mark_region, mark_span, play
from tests.browser.pairs import SECONDS, campaign, pair_of
from tests.services.console.conftest import Running

pytestmark = pytest.mark.browser


@pytest.mark.parametrize("subtask", SUBTASKS)
async def test_a_pair_of_each_subtask_is_annotated_with_the_keyboard_alone(
    console: Running, chromium: Browser, subtask: str
) -> None:
    made = await campaign(console, [await pair_of(console, subtask)])
    tab = await opened(chromium, console)
    await tab.sign_in("ann-token")
    page = tab.page
    await follow(page, "nav a[href$='/campaigns']")
    await follow(page, f"main a[href='/{made.name}']")
    await follow(page, "#annotate")
    if {*subtask} & {"a", "v"}:
        await mark_span(page, await play(page))
    elif "i" in subtask:
        await mark_region(page)
    if subtask == "t2a":
        await tab.document("annotating")
    await fill_in(page)
    await page.get_by_text("The pair is yours until").wait_for()
    await tab.screenshot(f"annotate-{subtask}")
    await leap(page, "s")
    await page.get_by_text("nothing left for you").wait_for()
    assert tab.problems == []
    check_mark(await answer(console, made), subtask)


async def answer(console: Running, made: Campaign) -> Feedback:
    """What was submitted about the first response."""
    (item,) = [item async for item in console.client.list_items(made.name)]
    (found,) = item.answers
    assert found.state == Task.STATE_SUBMITTED
    assert (found.annotator, found.annotation.preferred, found.annotation.reason) == ("ann-token", 1, WORDS)
    dimensions = [dimension.name for dimension in made.rubrics[0].dimensions]
    assert dict(found.annotation.winners) == dict.fromkeys(dimensions, 1)
    for score, feedback in zip((3, 0), found.annotation.feedback, strict=True):
        assert [(one.dimension, one.score, one.rationale) for one in feedback.scores] == [
            (name, score, WORDS) for name in dimensions
        ]
        assert (feedback.critique, feedback.refinement) == (WORDS, WORDS)
    return found.annotation.feedback[0]


def check_mark(feedback: Feedback, subtask: str) -> None:
    """A stretch of what was played, a region of a picture, or none where there is nothing to mark."""
    asked = subtask.partition("2")[0]
    if subtask == "t2t":
        assert not feedback.marks
        return
    (mark,) = feedback.marks
    assert mark.in_prompt == (asked != "t")
    if mark.HasField("span"):
        assert 0.3 <= mark.span.start_seconds < mark.span.end_seconds < SECONDS
    else:
        region = mark.region
        edges = (region.left, region.top, region.width, region.height)
        assert [round(edge, 6) for edge in edges] == [0.1, 0.2, 0.3, 0.4]


async def test_a_digit_chooses_and_leads_to_the_next_field_that_must_be_filled_in(
    console: Running, chromium: Browser
) -> None:
    made = await campaign(console, [await pair_of(console, "ti2t")])
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
