"""One scripted annotator, pair after pair, in our console and in Label Studio's own server.

Both get the same pairs of texts and the same answers, in Chromium, each by its shortest way: in the console the
keyboard alone, in Label Studio the keys that it gives to choices, and a click where it gives none. The annotator never
pauses, so seconds are those of the tools: from a pair that can be filled in to the next one. What was submitted is read
back.
"""

import contextlib
import json
import random
import shutil
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from playwright.async_api import Browser, Page, async_playwright

from benchmarks.annotators import pairs
from benchmarks.results_page import number
from omnialign import rubrics
from omnialign.cli import exchange
from omnialign.exchange.label_studio import TOOL, read_tasks
from omnialign.exchange.pairs import Pair, same, shown
from omnialign.exchange.questions import Kind, Question, annotation_of, questions
from omnialign.exchange.reading import Imported, Source
from omnialign.v1.annotation_pb2 import Annotation
from omnialign.v1.annotation_service_pb2 import Campaign
from tests.browser.conftest import HELP, NAMES
from tests.browser.keyboard import leap
from tests.label_studio_server import EMAIL, PASSWORD, LabelStudio, label_studio
from tests.services.console.conftest import Running, running

RUBRIC = rubrics.form("t2t")
TEXTS = {
    Kind.CRITIQUE: "It answers the question, but names no source for what it claims.",
    Kind.REFINEMENT: "Name the source, and leave out the last sentence.",
    Kind.REASON: "It says more of what was asked for.",
}
OURS, THEIRS = "omnialign's console", "Label Studio"
PATIENCE_MS = 60_000
Answers = dict[str, str]


@dataclass
class Hand:
    """What an annotator does on a page, counted: keys, and clicks as if they were keys. A chord is one."""

    page: Page
    strokes: int = 0
    characters: int = 0
    """Of texts, which are the same everywhere."""

    async def press(self, key: str) -> None:
        """One key or chord."""
        self.strokes += 1
        await self.page.keyboard.press(key)

    async def leap(self, letter: str) -> None:
        """Alt and a letter."""
        self.strokes += 1
        await leap(self.page, letter)

    async def click(self, selector: str) -> None:
        """One click."""
        self.strokes += 1
        await self.page.click(selector)

    async def write(self, text: str) -> None:
        """A text."""
        self.characters += len(text)
        await self.page.keyboard.type(text)


@dataclass
class Sheet:
    """What each pair took."""

    seconds: list[float] = field(default_factory=list)
    strokes: list[int] = field(default_factory=list)
    characters: list[int] = field(default_factory=list)

    async def pair(self, page: Page, act: Callable[[Hand], Awaitable[None]]) -> None:
        """Notes one pair; `act` ends when the next one can be filled in."""
        hand, begun = Hand(page), time.perf_counter()
        await act(hand)
        self.seconds.append(time.perf_counter() - begun)
        self.strokes.append(hand.strokes)
        self.characters.append(hand.characters)

    def medians(self) -> dict[str, float]:
        """The figures of a page."""
        return {
            "seconds per pair": statistics.median(self.seconds),
            "key strokes per pair, without texts": statistics.median(self.strokes),
            "characters of texts per pair": statistics.median(self.characters),
        }


def answers_of(nth: int) -> Answers:
    """What the annotator says of a pair: choices by chance, texts always."""
    draw = random.Random(nth)
    return {
        question.name: draw.choice(list(question.choices)) if question.choices else TEXTS[question.kind]
        for question in questions(RUBRIC)
        if question.is_required
    }


def annotation(nth: int) -> Annotation:
    """The same as what is submitted."""
    made, problems = annotation_of(answers_of(nth), RUBRIC)
    assert not problems, problems
    return made


async def measure(*, count: int) -> dict[str, Any]:
    """Both tools, one after the other. Raises AssertionError if something else was submitted than was meant."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        async with running(root, tokens=True) as console, chromium() as browser:
            campaign = await open_campaign(console, count=count)
            await exchange.export(console.client, campaign.name, root / "out", tool=TOOL)
            with label_studio(_made(root / "studio")) as studio:
                theirs = await in_label_studio(studio, browser, root / "out", campaign, count=count)
            ours = await in_console(console, browser, campaign, count=count)
    return {"pairs": count, OURS: ours.medians(), THEIRS: theirs.medians()}


async def open_campaign(console: Running, *, count: int) -> Campaign:
    """A campaign over pairs of texts."""
    dataset = await console.client.create_dataset("pairs")
    await console.client.append_records(dataset.name, pairs(count))
    version = await console.client.commit_version(dataset.name)
    return await console.client.create_campaign("people", Campaign(dataset_version=version.name, keep_sides=True))


async def in_console(console: Running, browser: Browser, campaign: Campaign, *, count: int) -> Sheet:
    """The console, with the keyboard alone."""
    context = await browser.new_context(base_url=console.web.address)
    context.set_default_timeout(PATIENCE_MS)
    page = await context.new_page()
    await page.goto("/sign-in")
    await page.get_by_label("Token").fill("ann-token")
    await page.keyboard.press("Enter")
    await page.wait_for_url("**/jobs")
    await page.goto(f"/{campaign.name}/annotate")
    await page.wait_for_selector("#task")
    sheet = Sheet()
    for nth in range(count):

        async def fill(hand: Hand, nth: int = nth) -> None:
            await hand.leap("d")
            await hand.press("Tab")
            told = answers_of(nth)
            before: Question | None = None
            for question in (one for one in questions(RUBRIC) if one.is_required):
                if before is not None and before.choices is None:
                    await hand.press("Tab")  # from a text on; a choice leads on by itself
                await _at(page, question)
                await (hand.press if question.choices else hand.write)(told[question.name])
                before = question
            await hand.leap("s")
            onward = "text=nothing left for you" if nth + 1 == count else f"text=question {nth + 1}"
            await page.wait_for_selector(onward)

        await sheet.pair(page, fill)
    found = {item.record_id: item.answers async for item in console.client.list_items(campaign.name)}
    for nth, record in enumerate(pairs(count)):
        (answer,) = found[record.id]
        assert same(answer.annotation, annotation(nth)), (record.id, answer)
    return sheet


async def in_label_studio(
    studio: LabelStudio, browser: Browser, folder: Path, campaign: Campaign, *, count: int
) -> Sheet:
    """Label Studio's own server, on what we export."""
    project = studio.project("people", (folder / "t2t.xml").read_text())
    tasks = json.loads((folder / "t2t.json").read_text())
    studio.load(project, tasks)
    context = await browser.new_context(base_url=studio.address, viewport={"width": 1600, "height": 2600})
    context.set_default_timeout(PATIENCE_MS)
    page = await context.new_page()
    await page.goto("/user/login/")
    await page.fill("input[name=email]", EMAIL)
    await page.fill("input[name=password]", PASSWORD)
    await page.keyboard.press("Enter")
    await page.wait_for_url(f"{studio.address}/")
    await page.goto(f"/projects/{project}/data?labeling=1")
    await page.wait_for_selector("text=question 0")
    await page.wait_for_selector("[name=reason]")
    sheet = Sheet()
    for nth in range(count):

        async def fill(hand: Hand, nth: int = nth) -> None:
            told, groups = answers_of(nth), await page.query_selector_all(".lsf-choices")
            chosen = [question for question in questions(RUBRIC) if question.choices]
            clicks = list[str]()
            for place, (question, group) in enumerate(zip(chosen, groups, strict=True)):
                option = list(question.choices or ()).index(told[question.name])
                item = (await group.query_selector_all(".lsf-choice__item"))[option]
                hint = await item.query_selector(".lsf-hint")
                if hint is not None:
                    await hand.press((await hint.inner_text()).strip("[] "))
                else:
                    clicks.append(f".lsf-choices >> nth={place} >> .lsf-choice__item >> nth={option} >> label")
            for selector in clicks:
                await hand.click(selector)
            for question in (one for one in questions(RUBRIC) if one.is_required and not one.choices):
                await hand.click(f"textarea[name={question.name}]")
                await hand.write(told[question.name])
                await hand.press("Shift+Enter")
            await hand.press("Control+Enter")
            onward = "text=No More Tasks Left" if nth + 1 == count else f"text=question {nth + 1}"
            await page.wait_for_selector(onward)
            if nth + 1 < count:
                await page.wait_for_selector("[name=reason]")

        await sheet.pair(page, fill)
    check(studio.export(project), campaign, count=count)
    return sheet


def check(exported: Sequence[Any], campaign: Campaign, *, count: int) -> None:
    """Raises AssertionError unless Label Studio has what was meant."""
    known = {one.id: Pair(campaign.name, "", shown(one), RUBRIC) for one in pairs(count)}
    found = list(read_tasks(exported, Source(campaign.name, known, count, {}), file="export"))
    assert len(found) == count, found
    for one in found:
        assert isinstance(one, Imported), one
        nth = list(known).index(one.pair.record.id)
        assert same(one.annotation, annotation(nth)), (one.pair.record.id, one.annotation)


async def _at(page: Page, question: Question) -> None:
    """Raises AssertionError if the cursor is elsewhere than at a question."""
    name = await page.evaluate("document.activeElement.name")
    meant = question.name.replace(f"{question.kind.value}_", f"{question.kind.value}.")
    if question.side and question.dimension:
        meant = f"{question.kind.value}.{question.side}.{question.dimension}"
    assert name == meant, f"the cursor is at {name} and not at {meant}"


def section(found: Mapping[str, Any]) -> str:
    """The results as a part of a page."""
    ours, theirs = found[OURS], found[THEIRS]
    rows = "\n".join(f"| {name} | {number(ours[name])} | {number(theirs[name])} |" for name in ours)
    return f"""## One pair after another

One scripted annotator in Chromium, in our console and in Label Studio's own server from PyPI, on the same
{found["pairs"]} pairs of texts (five dimensions) with the same answers, in one run; medians. Label Studio gets what
`omnialign annotate export --format label-studio` writes. Each goes its shortest way: in the console the keyboard alone;
in Label Studio the keys that it gives to the first 33 choices, a click for each of the others and into each text, and
Shift+Enter after it. A chord and a click count as one stroke. The annotator never pauses, so seconds are those of the
tools, from a pair that can be filled in to the next one. What was submitted was read back from both, and is what was
meant.

| measure | {OURS} | {THEIRS} |
|---|---|---|
{rows}
"""


@contextlib.asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    """Chromium of this machine."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    assert found, HELP
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        await browser.close()


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder
