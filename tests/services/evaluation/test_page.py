"""The page of an evaluation, from records with real media."""

import asyncio
import base64
import hashlib
import re
from collections.abc import AsyncIterator, Iterator
from typing import Any

import numpy as np
import pytest

from omnialign import media
from omnialign.content import content
from omnialign.v1 import content_pb2, evaluation_service_pb2
from services.evaluation.benchmarks.benchmark import assess
from services.evaluation.comparing import Compared, Side, own_samples
from services.evaluation.job import STAGES, Spec, parts_of, with_defaults
from services.evaluation.report import cards, comparison, page
from services.evaluation.report.choice import Choice
from services.evaluation.report.numbers import report_numbers
from services.evaluation.scores import Scoring, scores_of
from services.evaluation.summaries import summaries_of
from services.evaluation.works import annotated_pair_of, judged_by, pair_of, works_of
from services.pipeline.item_calls import extended
from services.pipeline.kind import Record
from services.pipeline.pages import messages
from tests.evaluation_stack import Benchmark, Evaluation
from tests.pages import Page

CATEGORIES = ("perception", "reasoning", "instruction_following", "safety")
PER_CATEGORY = page.ITEMS_SHOWN + 2
JUDGE = "projects/default/models/judge/versions/1"
MODELS = [f"projects/default/models/{name}/versions/1" for name in ("base", "tuned", "third")]
HOSTILE = '<script>alert("x")</script><img src=https://example.com/p.png onerror=alert(1)>'


class World:
    """Questions about a picture with a sound, and what some models answered; each model is worse than the next."""

    def __init__(self, models: int = 2, *, words: str = "It is red.") -> None:
        self.data: dict[str, bytes] = {}
        judges = [evaluation_service_pb2.BenchmarkJudge(model=JUDGE)]
        names = ("amu", "pairwise", "preference")[: 3 if models > 1 else 1]
        benchmarks = [Benchmark(name=name, dataset="projects/default/datasets/d", judges=judges) for name in names]
        benchmarks[0].ablation = "image"
        if models > 1:
            benchmarks[1].baseline = MODELS[0]
        self.plan = with_defaults(Spec(models=MODELS[:models], benchmarks=benchmarks, seed=3))
        self.items = [self.item(i, words) for i in range(PER_CATEGORY * len(CATEGORIES))]
        self.records = [record for part in parts_of(self.plan) for record in self.scored(part, words)]

    def medium(self, modality: int, mime_type: str, data: bytes) -> content_pb2.Media:
        sha256 = hashlib.sha256(data).hexdigest()
        self.data[sha256] = data
        return content_pb2.Media(modality=modality, mime_type=mime_type, sha256=sha256, size_bytes=len(data))

    def item(self, number: int, words: str) -> Record:
        pixels = np.full((24, 24, 3), (20 + number, 60, 200), dtype=np.uint8)
        tone = np.sin(np.arange(4000) / (4 + number)).astype(np.float32) / 2
        seen = self.medium(content_pb2.MODALITY_IMAGE, "image/png", media.write_image(pixels))
        heard = self.medium(content_pb2.MODALITY_AUDIO, "audio/wav", media.write_audio(tone, 8000))
        record = Record(
            id=f"q-{number:02d}", subtask="tia2t", split="test", prompt=content(seen, heard, f"Ask {number}?")
        )
        record.history.add(role=content_pb2.ROLE_USER, content=content(f"Before {number}: {words}"))
        record.benchmark_item.category = CATEGORIES[number % len(CATEGORIES)]
        reference = record.benchmark_item.references.add(answer=words)
        reference.key_terms["image"].terms.append("red")
        return record

    def scored(self, part: object, words: str) -> Iterator[Record]:
        works = [work for item in self.items for work in works_of(self.plan, part, item)]
        works.sort(key=lambda work: (work.labels["evaluation.model"], "evaluation.ablated" in work.labels))
        for work in works:
            work.responses.add(content=content(words), source=MODELS[int(work.labels["evaluation.model"]) - 1])
        if part.spec.name == "amu":
            for place, work in enumerate(works):
                number, model = int(work.labels["evaluation.item"][2:]), int(work.labels["evaluation.model"])
                record = judged_by(work, 1)
                if place == 5:
                    assess(record, "understanding", 0.0, abstain_reason="ANSWER_UNREADABLE", judge=JUDGE)
                else:
                    assess(
                        record, "understanding", 1.0 + number % 6 + model, rationale=f"{words} n{number}", judge=JUDGE
                    )
                if place != 6:
                    yield record
        elif part.spec.name == "pairwise":
            for place, work in enumerate(works[len(self.items) :]):
                record = judged_by(pair_of(works[place % len(self.items)], work, part, baseline=1), 1)
                assess(record, "win_rate", 1.0, rationale=f"{words} better", judge=JUDGE)
                yield record
        else:
            for item in self.items[:3]:
                for _ in range(2):
                    item.responses.add(content=content(words), source="people")
                item.preference.preferred = 2
                record = judged_by(annotated_pair_of(item, part), 1)
                assess(record, "accuracy", 1.0, judge=JUDGE)
                yield record

    def job(self) -> Evaluation:
        made = Evaluation(name="projects/default/evaluations/tiny", spec=self.plan)
        samples = self.scoring().close()
        made.scores.extend([*scores_of(self.plan, samples), *summaries_of(self.plan, samples)])
        for stage in STAGES:
            made.stages.add(stage=stage)
        for model in self.plan.models:
            made.manifest.models.add(model=model)
        for part in parts_of(self.plan):
            made.manifest.benchmarks.add(benchmark=part.spec, items=len(self.items))
        return made

    def page(self, job: Evaluation | None = None) -> str:
        job, choice = job or self.job(), Choice(self.plan)
        for record in self.records:
            choice.add(record)
        shown = page.choose([record for record in self.records if choice.shows(record)], self.plan)
        numbers = report_numbers(job, self.plan, choice.told())
        references = cards.media_of(shown)
        return page.render(job, self.plan, numbers=numbers, shown=shown, references=references, data=self.data)

    def compared(self, *unlike: str) -> Compared:
        job = self.job()
        first, second = (Side(job, number, own_samples(self.scoring(), number)) for number in (1, 2))
        return Compared(second, first, unlike)

    def scoring(self) -> Scoring:
        made = Scoring(self.plan)
        for part in parts_of(self.plan):
            for item in self.items:
                made.add_item(part, item)
        for record in self.records:
            made.add(record)
        return made

    async def stream_records(self, source: str) -> AsyncIterator[Record]:
        """What the client of the data service reads."""
        for record in self.records:
            yield extended(record)


@pytest.fixture(scope="module")
def html() -> str:
    return World().page()


@pytest.fixture(scope="module")
def compared() -> tuple[dict[str, Any], str]:
    """The numbers and the page of a comparison."""
    world = World()
    return comparison_of(world, world.compared("seed"))


def comparison_of(world: World, found: Compared) -> tuple[dict[str, Any], str]:
    items = asyncio.run(comparison.read_different(found, world))  # type: ignore[arg-type]  # reads records alone
    numbers, shown = comparison.numbers_of(found, items), comparison.choose(found, items)
    page = comparison.render(found, numbers=numbers, shown=shown, references=cards.media_of(shown), data=world.data)
    return numbers, page


def card(html: str, part: str, item: str) -> str:
    """The card of an item."""
    found = re.findall(r'<article class="card example".*?</article>', html, re.DOTALL)
    return next(one for one in found if f'data-part="{part}"' in one and f">{item}<" in one)


def test_each_model_has_a_column_and_a_line_with_intervals_that_is_told_apart_without_colour(html: str) -> None:
    radar = re.search(r'<figure class="card radar">.*?</figure>', html, re.DOTALL)
    assert radar is not None
    assert re.findall(r'<polygon class="(line line-\d)"', radar[0]) == ["line line-0", "line line-1"]
    assert len(re.findall(r'<line class="whisker dot-[01]"', radar[0])) == 2 * len(CATEGORIES)
    assert radar[0].count("<circle") == radar[0].count('<rect class="dot') == len(CATEGORIES) + 1  # and the legend's
    assert all(f">{category.replace('_', ' ')}<" in radar[0] for category in CATEGORIES)
    assert "75\u202f%</text>" in radar[0]
    heads = re.findall(r'<th scope="col">(?:<svg.*?</svg> )?(.*?)</th>', html, re.DOTALL)
    assert heads[:4] == ["Measure", "Items", "base/1", "tuned/1"]


def test_abstentions_and_failures_stand_beside_the_scores(html: str) -> None:
    assert "22 judged, <b>1 abstained</b>, <b>1 failed</b>" in html


def test_an_item_shows_its_prompt_once_and_the_answers_side_by_side(html: str) -> None:
    found = card(html, "amu", "q-00")
    assert found.count("Ask 0?") == found.count("Before 0: ") == 1
    assert found.index('<div class="label">user</div>') < found.index("Before 0: ") < found.index("Ask 0?")
    assert found.count('<svg class="wave"') == found.count("<audio ") == 1
    assert re.findall(r'data-side="(\d)"', found) == ["1", "2", "1", "2"]  # and both once more without the picture
    assert found.count("<span>without image</span>") == 2
    assert "1 answers that people gave" in found
    assert "image: red" in found
    assert found.count("It is red. n0") == 4  # the judge's words, on each answer
    against = card(html, "pairwise", "q-00")
    assert re.findall(r'data-side="(\d)"', against) == ["1", "2"]
    assert "tuned/1 against base/1, by judge/1" in against
    assert card(html, "preference", "q-00").count("people preferred this") == 1


def test_the_worst_items_of_each_category_come_first_and_the_page_says_how_many_are_left_out(html: str) -> None:
    found = re.findall(r'data-part="amu" data-group="(\w+)" data-worst="([\d.]+)"', html)
    worst = [float(share) for _, share in found]
    assert worst == sorted(worst)
    assert [group for group, _ in found].count("perception") == page.ITEMS_SHOWN
    total = 3 * PER_CATEGORY * len(CATEGORIES)
    shown = html.count('<article class="card example"')
    assert f"{shown} of {total}" in html


def test_a_page_is_whole_without_its_script_which_is_the_only_one_that_may_run(html: str) -> None:
    assert '<div id="controls" class="controls" role="search" aria-label="Items" hidden>' in html
    (script,) = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = re.search(r'http-equiv="Content-Security-Policy" content="(.*?)"', html)
    assert policy is not None
    assert f"script-src 'sha256-{digest}'" in policy[1]
    assert "default-src 'none'" in policy[1]


def test_what_models_and_people_wrote_cannot_become_part_of_the_page() -> None:
    world = World(words=HOSTILE)
    job = world.job()
    for record in world.records:
        record.benchmark_item.category += "<b>"
        record.labels["evaluation.item"] += '"><script>'
    read = Page(world.page(job))
    assert read.tags.count("script") == 1
    assert not read.handlers
    assert all(address.startswith(("data:", "#")) for address in read.loads)


def test_a_page_has_a_bounded_size(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Page(World(models=1, words="long " * 2000).page())
    assert "… (6\u202f000 more characters)" in whole.words
    assert max(words.count("long ") for words in whole.words) == messages.MAX_TEXT_CHARACTERS // 5
    monkeypatch.setattr(messages, "MAX_PAGE_BYTES", 2000)
    small = World(models=1).page()
    assert "left out to keep this page small" in small
    assert small.count("data:image/png") < 4


def test_three_models_can_be_looked_at_two_at_a_time() -> None:
    html = World(models=3).page()
    assert re.findall(r'name="side" value="(\d)"', html) == ["1", "2", "3"]
    assert "--sides: 3" in html
    assert "line line-2" in html


def test_a_comparison_has_each_difference_with_its_interval_and_p_value(compared: tuple[dict[str, Any], str]) -> None:
    numbers, html = compared
    rows = {(row["measure"], row["group"], row["without"]): row for row in numbers["comparisons"]}
    whole = rows["understanding", None, None]
    assert (whole["items"], whole["unpaired"]) == (22, 2)
    assert whole["difference"] == pytest.approx(1)  # the second model is one point better on every item
    assert whole["interval"] == pytest.approx([1, 1])
    assert whole["p_value"] < 0.001
    assert rows["amu", None, None]["difference"] == pytest.approx(1)
    assert {row["group"] for row in numbers["comparisons"]} >= set(CATEGORIES)
    assert html.count('<svg class="forest"') == len(rows)
    assert '<ellipse class="better"' in html
    assert "The two evaluations differ in seed" in html


def test_a_comparison_shows_the_items_that_differ_most_with_both_answers(compared: tuple[dict[str, Any], str]) -> None:
    numbers, html = compared
    assert all(item["model"] - item["baseline"] == pytest.approx(1) for item in numbers["items"])
    found = re.findall(r'<article class="card example".*?</article>', html, re.DOTALL)
    assert len(found) == comparison.ITEMS_SHOWN * len(CATEGORIES)
    assert all(re.findall(r'data-side="(\d)"', card)[:2] == ["1", "2"] for card in found)
    assert all('<span class="pill win">+1</span>' in card for card in found)


def test_texts_in_a_comparison_are_escaped_too() -> None:
    world = World(words=HOSTILE)
    read = Page(comparison_of(world, world.compared())[1])
    assert read.tags.count("script") == 1
    assert not read.handlers
    assert all(address.startswith(("data:", "#")) for address in read.loads)
