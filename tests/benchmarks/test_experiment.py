"""The experiment: what its arms share, what is made of their outcomes, and that it goes on where it was."""

import asyncio
import csv
import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.experiment import bench as benches
from benchmarks.experiment import summary
from benchmarks.experiment.__main__ import best, run_seed
from benchmarks.experiment.arms import ARMS, BASE, METHOD_ARMS, SHARE_ARMS, chosen
from benchmarks.experiment.bench import Bench, Plan
from benchmarks.experiment.page import as_markdown, write_results
from benchmarks.experiment.policies import rollout_spec
from benchmarks.experiment.rewards import course, in_order
from benchmarks.experiment.summary import MEAN, row_of, summarise
from examples.tinyworld.dataset import Sizes
from omnialign.errors import InvalidArgument

pytestmark = pytest.mark.usefixtures("few_resamples")
SUBTASKS = ("t2t", "t2i")
SETTINGS = {"learning_rate": 1e-3, "validation": 0.6, "tried": [{"learning_rate": 1e-3, "validation": 0.6}]}
REINFORCED: dict[str, Any] = {
    "rollouts": 50,
    "answers": 6400,
    "steps": 100,
    "course": {
        "reward": {"first": 0.1, "last": 2.5},
        "oracle": {"first": 0.7, "last": 0.65},
        "kl": {"first": 0.0, "last": 0.125},
        "tokens": {"first": 20.0, "last": 21.0},
    },
    "order": {"share": 0.61, "pairs": 150},
}


@pytest.fixture
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(summary, "RESAMPLES", 200)


def plan(folder: Path) -> Plan:
    return Plan(Sizes(1, 1, 1, 1), num_pairs=100, rollouts=50, small=False, cache=folder)


def outcome(arm: str, seed: int, correct: dict[str, list[bool]], **facts: Any) -> dict[str, Any]:
    settings = {} if arm == BASE.name else SETTINGS
    return {"arm": arm, "seed": seed, "correct": correct, "settings": settings, "pairs": 100, **facts}


def outcomes(arms: tuple[str, ...] = tuple(arm.name for arm in ARMS)) -> list[dict[str, Any]]:
    """Two seeds; every arm but the base answers one prompt of two in t2t right, and no other."""
    found = []
    for arm, seed in itertools.product(arms, (11, 12)):
        facts = REINFORCED if arm.startswith("PPO") else {"critiques": 60, "examples": 75} if arm == "SDPO" else {}
        right = [arm != BASE.name, False]
        found.append(outcome(arm, seed, {"t2t": right, "t2i": [False, False]}, **facts))
    return found


def test_arms_have_names_of_their_own_and_both_figures_name_them_all() -> None:
    assert len({arm.job_id for arm in ARMS}) == len(ARMS)
    assert {*METHOD_ARMS, *SHARE_ARMS} == {arm.name for arm in ARMS}
    assert [row["feedback"] for row in summarise(outcomes(("base", *SHARE_ARMS))) if row["subtask"] == MEAN] == [
        None,
        1.0,
        0.25,
        0.5,
        0.75,
    ]


def test_chosen_arms_bring_the_base_and_those_whose_rates_they_take_over() -> None:
    assert [arm.name for arm in chosen(["DPO+LLF 25 %"])] == ["base", "DPO+LLF", "DPO+LLF 25 %"]
    assert chosen([]) == ARMS


def test_arms_of_reinforcement_learning_differ_only_in_what_rewards_them(tmp_path: Path) -> None:
    bench = Bench(None, seed=1, plan=plan(tmp_path))  # type: ignore[arg-type]  # asks no server
    learnt, criticised = rollout_spec(bench, "reward_model", "r"), rollout_spec(bench, "critic", "c")
    assert learnt["ppo"]["rollout"].pop("rewards") == [{"reward_model": "r"}, {"checker": "tinyworld", "weight": 0.0}]
    assert criticised["ppo"]["rollout"].pop("rewards")[0] == {"critic": "c"}
    assert learnt == criticised
    assert learnt["hyperparameters"]["max_steps"] == 50 * learnt["ppo"]["rollout"].get("num_iterations", 1)


def test_gain_is_paired_with_the_base_model_and_the_mean_is_that_of_subtasks() -> None:
    base = outcome("base", 11, {"t2t": [True, False, False, False], "t2i": [False, False]})
    arm = outcome("DPO", 11, {"t2t": [True, True, True, False], "t2i": [False, False]})
    rows = summarise([base, arm])
    text, mean = row_of(rows, "DPO", "t2t"), row_of(rows, "DPO", MEAN)
    assert (text["right"], text["gain"]) == (0.75, 0.5)
    assert (mean["right"], mean["gain"]) == (0.375, 0.25)
    assert 0 <= text["gain_low"] < 0.5 < text["gain_high"] <= 1
    assert row_of(rows, "DPO", "t2i")["gain_high"] == 0


def test_a_loss_is_reported_as_one() -> None:
    rows = summarise(
        [outcome("base", 11, {"t2t": [True, True]}), outcome("SDPO", 11, {"t2t": [False, False]}, critiques=2)]
    )
    assert row_of(rows, "SDPO", MEAN)["gain"] == -1


def test_results_hold_every_arm_and_both_figures(tmp_path: Path) -> None:
    write_results(outcomes(), tmp_path)
    with (tmp_path / "experiment.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(ARMS) * (len(SUBTASKS) + 1)
    page = (tmp_path / "experiment.md").read_text()
    for words in (
        "| DPO | 25.0 (0.0 to 50.0) | 50.0 | 0.0 | +25.0 (+0.0 to +50.0) |",
        "| 25 % feedback | 25.0 (0.0 to 50.0) | +25.0 (+0.0 to +50.0) |",
        "| PPO+critic | 12 | 61 % of 150 | 0.10 to 2.50 | 70.0 to 65.0 | 0.125 |",
        "| SDPO | 0.001 | 0.001: 60.0 % | 60 critiques, 75 examples |",
        "drew 50 times 128 answers",
    ):
        assert words in page
    assert (tmp_path / "experiment.png").read_bytes().startswith(b"\x89PNG")


def test_a_part_of_the_arms_makes_a_page_too(tmp_path: Path) -> None:
    write_results(outcomes(("base", "PPO")), tmp_path)
    page = (tmp_path / "experiment.md").read_text()
    assert "| PPO |" in page
    assert "DPO+LLF |" not in page
    assert as_markdown(summarise(outcomes(("base",))), outcomes(("base",))).endswith("\n")


def test_order_counts_pairs_that_the_oracle_tells_apart_and_ties_half() -> None:
    ids, totals = ["a", "b", "c", "d", "e"], [[3, 1, 2, 2, 3], [1, 3, 1, 2, 0]]
    found = in_order(ids, totals, [{"a": 0.9, "b": 0.9, "c": 0.5, "d": 0.1}, {"a": 0.1, "b": 0.1, "c": 0.5, "d": 0.9}])
    assert found == {"share": 0.5, "pairs": 3}  # a is right, b wrong, c a tie; d is one for the oracle, e has no reward
    assert in_order([], [[], []], [{}, {}]) == {"share": None, "pairs": 0}


def test_course_is_the_mean_of_the_first_and_the_last_tenth() -> None:
    points = [
        {"rewards/critic": float(step), "rewards/checker": -float(step), "kl": 0.0, "completions/length": 9.0}
        for step in range(20)
    ]
    found = course([{"loss": 1.0}, *points], term="critic")
    assert found["reward"] == {"first": 0.5, "last": 18.5}
    assert found["oracle"] == {"first": -0.5, "last": -18.5}


def test_tuning_takes_the_best_rate_and_of_equal_ones_the_first() -> None:
    tried = [{"learning_rate": rate, "validation": share} for rate, share in ((1.0, 0.4), (2.0, 0.5), (3.0, 0.5))]
    assert best(tried) == {"learning_rate": 2.0, "validation": 0.5, "tried": tried}


def test_cache_of_other_sizes_is_refused(tmp_path: Path) -> None:
    plan(tmp_path).keep()
    plan(tmp_path).keep()
    with pytest.raises(InvalidArgument, match="--cache") as refused:
        replace(plan(tmp_path), num_pairs=7).keep()
    assert refused.value.reason == "CACHE_OF_OTHER_SIZES"


async def test_what_is_in_the_cache_is_not_done_again(tmp_path: Path) -> None:
    (tmp_path / "11").mkdir()
    (tmp_path / "11" / "base.json").write_text(json.dumps({"arm": "base"}))

    async def fail(*_: Any) -> dict[str, Any]:
        raise AssertionError

    assert await run_seed(plan(tmp_path), 11, [BASE], fail) == {"base": {"arm": "base"}}


@pytest.mark.slow
async def test_a_bench_that_is_opened_again_has_the_same_data_and_answers(tmp_path: Path) -> None:
    found = []
    for _ in range(2):
        async with asyncio.timeout(300), benches.opened(plan(tmp_path), 11) as bench:
            found.append((bench.dataset, bench.base_model, await bench.correct(bench.base_model, "test")))
    assert found[0] == found[1]
    assert {len(flags) for flags in found[0][2].values()} == {1}
    assert len(found[0][2]) == 8
