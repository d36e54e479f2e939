"""Which items reports tell of, chosen among records that are seen one by one, against all of them in a list."""

import random

import pytest

from services.evaluation.benchmarks.benchmark import assess
from services.evaluation.job import Spec
from services.evaluation.report import cards, choice, differences, page
from services.evaluation.report.choice import Choice
from services.evaluation.report.differences import Differences
from services.evaluation.samples import key_of
from services.evaluation.works import BENCHMARK, ITEM, JUDGE, MODEL
from services.pipeline.kind import Record
from tests.evaluation_stack import Benchmark

PLAN = Spec(models=["file:///one", "file:///two"], benchmarks=[Benchmark(name="amu"), Benchmark(name="checkers")])


def scored(seed: int, *, count: int = 40, judges: int = 2) -> list[Record]:
    """Records of two models on the items of two benchmarks, in any order; a few without a score."""
    draw, records = random.Random(seed), []
    for part, measure in (("amu", "understanding"), ("checkers", "correct")):
        for number in range(count):
            for model in (1, 2):
                for judge in range(1, judges + 1):
                    record = Record(id=f"i{number}.{part}.{model}.j{judge}", subtask=f"t2{'tiav'[number % 4]}")
                    record.labels.update({BENCHMARK: part, ITEM: f"i{number}", MODEL: str(model), JUDGE: str(judge)})
                    record.responses.add()
                    reason = "UNREADABLE" if draw.random() < 0.1 else ""
                    assess(
                        record, measure, draw.randint(0, 10) / (10 if part == "checkers" else 1), abstain_reason=reason
                    )
                    records.append(record)
    draw.shuffle(records)
    return records


@pytest.mark.parametrize("seed", range(5))
def test_the_page_shows_the_items_that_are_worst_of_all(seed: int) -> None:
    records, chosen = scored(seed), Choice(PLAN)
    for record in records:
        chosen.add(record)
    kept = [record for record in records if chosen.shows(record)]
    assert len(kept) < len(records) / 2
    assert page.choose(kept, PLAN) == page.choose(records, PLAN)


def test_the_json_tells_of_the_lowest_scores_of_each_subject(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "ITEMS_TOLD", 7)
    records, chosen = scored(1), Choice(PLAN)
    for record in records:
        chosen.add(record)
    found = [item["scores"] for item in chosen.told() if item["benchmark"] == "amu" and item["model"] == "file:///two"]
    of_judges = [[r for r in records if r.id.endswith(f".amu.2.j{judge}")] for judge in (1, 2)]
    lowest = [
        sorted(a.score for r in of for a in r.responses[0].assessments if not a.abstain_reason)[:7] for of in of_judges
    ]
    told = [[one["understanding"] for one in found[start : start + 7]] for start in (0, 7)]
    assert sorted(told) == sorted(lowest)


@pytest.mark.parametrize("seed", range(5))
def test_a_comparison_tells_of_the_items_that_differ_most_of_all(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(differences, "ITEMS_TOLD", 9)
    records, found = scored(seed), Differences()
    for record in records:
        found.add(record, place=int(record.labels[MODEL]) - 1)
    distances = {}
    for item in cards.by_item(records):
        reached = cards.shares(item)
        if len(reached) == 2 and reached[1] != reached[2]:
            distances[item[0].labels[BENCHMARK], key_of(item[0].labels[ITEM])] = abs(reached[1] - reached[2])
    chosen = found.close()
    assert chosen <= distances.keys()
    assert 9 <= len(chosen) <= 9 + 2 * 4 * differences.ITEMS_SHOWN
    ninth = sorted(distances.values())[-9]
    assert {item for item, distance in distances.items() if distance > ninth + 1e-9} <= chosen
