"""Scores that are made of other scores."""

import pytest

from services.evaluation.benchmarks.benchmark import Subject
from services.evaluation.job import Spec
from services.evaluation.samples import Sample
from services.evaluation.scores import ALL, Key
from services.evaluation.summaries import summaries_of
from tests.evaluation_stack import Benchmark


def sample(*scores: float) -> Sample:
    made = Sample()
    for number, score in enumerate(scores):
        made.add(f"item-{number}", [score])
    return made


def spec(*names: str, models: int = 1) -> Spec:
    made = Spec(models=[f"file:///{number}" for number in range(models)])
    for name in names:
        benchmark = Benchmark(name=name)
        benchmark.judges.add(model="file:///judge")
        made.benchmarks.append(benchmark)
    return made


FOLLOWING = {"t": 9.51, "i": 9.70, "a": 6.64}
SYNERGY = {"synergy-ti": 0.51, "synergy-ta": 0.56, "synergy-ia": 0.67}


def generation() -> dict[Key, Sample]:
    """The published parts of GPT-4o, each reached on two items."""
    one = Subject(1, 1)
    found = {Key("selection", Subject(1), "selection", ALL): sample(0.266, 0.266)}
    for group, value in FOLLOWING.items():
        found[Key("instruction_following", one, "following", group)] = sample(value, value)
    for measure, value in SYNERGY.items():
        found[Key("synergy", one, measure, ALL)] = sample(value, value)
    return found


def test_generation_is_made_of_the_parts_of_three_benchmarks() -> None:
    plan = spec("instruction_following", "selection", "synergy")
    (amg,) = summaries_of(plan, generation())
    assert (amg.benchmark, amg.measure, amg.model) == ("amg", "amg", "file:///0")
    assert amg.value == pytest.approx(3.96, abs=0.005)  # as printed


def test_a_composite_of_which_a_part_was_not_measured_is_left_out() -> None:
    parts = {key: found for key, found in generation().items() if key.benchmark != "selection"}
    assert list(summaries_of(spec("instruction_following", "selection", "synergy"), parts)) == []


def test_overall_is_the_mean_of_understanding_and_generation() -> None:
    plan = spec("amu", "instruction_following", "selection", "synergy")
    categories = {"perception": 2.66, "reasoning": 3.48, "instruction_following": 4.20, "safety": 5.15}
    parts = generation() | {
        Key("amu", Subject(1, 1), "understanding", name): sample(value, value) for name, value in categories.items()
    }
    found = {score.measure: score.value for score in summaries_of(plan, parts)}
    assert found["amu"] == pytest.approx(3.87, abs=0.005)
    assert found["overall"] == pytest.approx(3.92, abs=0.005)


def test_judges_that_rate_alike_agree() -> None:
    plan = spec("amu")
    plan.benchmarks[0].judges.add(model="file:///second")
    rated = {
        Key("amu", Subject(1, judge), "understanding", ALL): sample(*scores)
        for judge, scores in ((1, (1, 5, 9)), (2, (1, 5, 9)))
    }
    (agreement,) = [score for score in summaries_of(plan, rated) if score.measure == "agreement"]
    assert (agreement.value, agreement.judged) == (1, 3)
    assert not agreement.HasField("low")


def test_three_models_that_were_compared_have_strengths() -> None:
    plan = spec("pairwise", models=3)
    parts = {
        Key("pairwise", Subject(model, 1, baseline), "win_rate", ALL): sample(1, 1, 0.5, 0)
        for baseline, model in ((1, 2), (1, 3), (2, 3))
    }
    found = {score.model: score.value for score in summaries_of(plan, parts)}
    assert found["file:///2"] > found["file:///1"] > found["file:///0"]
    assert sum(found.values()) == pytest.approx(0, abs=1e-6)
