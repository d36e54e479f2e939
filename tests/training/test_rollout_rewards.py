"""Rewards of answers, against a judge service that abstains, fails and answers."""

import math
import random
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from examples.tinyworld.language import phrase, random_task
from omnialign.content import content
from omnialign.errors import FailedPrecondition, InvalidArgument, to_status
from omnialign.v1 import (
    critique_service_pb2,
    critique_service_pb2_grpc,
    judge_service_pb2,
    judge_service_pb2_grpc,
    record_pb2,
)
from services.runtime.config import ServerConfig
from services.runtime.server import Server
from training.methods.grpo import GrpoSettings
from training.methods.rollout import RewardTerm, RolloutSettings
from training.rollout.answers import Answer, Prompt, Rollout
from training.rollout.groups import grouped, is_flat, rewarded, rewards_missing
from training.rollout.rewards import Missing, Rewarder, term_names, weighted_sum
from training.spec import Spec
from training.trainers.online import require_addresses


class Judge(judge_service_pb2_grpc.JudgeServiceServicer, critique_service_pb2_grpc.CritiqueServiceServicer):
    """Scores by what a response says: `good` 3, `bad` 0, `unsure` abstains, `broken` fails; rewards likewise.

    Remembers what it was asked about.
    """

    def __init__(self) -> None:
        self.seen: list[tuple[str, str]] = []
        self.deterministic: list[bool] = []

    async def ScoreResponse(  # noqa: N802
        self, request: judge_service_pb2.ScoreResponseRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[judge_service_pb2.ScoreResponseResponse]:
        self.deterministic.append(request.sampling.deterministic)
        for item in request.items:
            yield self._scored(item, judge_service_pb2.ScoreResponseResponse(id=item.id))

    async def Critique(  # noqa: N802
        self, request: critique_service_pb2.CritiqueRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[critique_service_pb2.CritiqueResponse]:
        self.deterministic.append(request.sampling.deterministic)
        for item in request.items:
            yield self._scored(item, critique_service_pb2.CritiqueResponse(id=item.id))

    def _scored(self, item: critique_service_pb2.CritiqueItem, result):
        words = item.response.parts[0].text
        self.seen.append((item.prompt.parts[0].text, words))
        if words == "unsure":
            result.abstention.reason = "ANSWER_UNPARSABLE"
        elif words == "broken":
            result.error.CopyFrom(to_status(InvalidArgument("no", reason="PROMPT_TOO_LONG")))
        else:
            for dimension in ("a", "b"):
                result.feedback.scores.add(dimension=dimension, score=3 if words == "good" else 0)
        return result

    async def ComputeRewards(  # noqa: N802
        self, request: judge_service_pb2.ComputeRewardsRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[judge_service_pb2.ComputeRewardsResponse]:
        self.deterministic.append(request.deterministic)
        for item in request.items:
            words = item.response.parts[0].text
            self.seen.append((item.prompt.parts[0].text, words))
            rewards = {"good": 2.5, "bad": -1.0, "unsure": math.nan, "broken": math.inf}
            yield judge_service_pb2.ComputeRewardsResponse(id=item.id, reward=rewards[words])


def answer(words: str | None, *, tokens: int = 4, is_finished: bool = True, row: int = 0, prompt: str = "x") -> Answer:
    said = None if words is None else content(*([words] if words else []))
    record = record_pb2.Record(id=f"r{row}", subtask="t2t", prompt=content(prompt))
    return Answer(Prompt(row, record), [7] * tokens, [-1.0] * tokens, said, is_finished, 0)


ANSWERS = [answer(words) for words in ("good", "bad", "unsure", "broken", None)]


async def rewards_of(
    terms: list[RewardTerm], answers: list[Answer], judge: Judge | None = None, *, deterministic: bool = False
) -> list[float | Missing]:
    return (await rewards_and_means_of(terms, answers, judge, deterministic=deterministic))[0]


async def rewards_and_means_of(
    terms: list[RewardTerm], answers: list[Answer], judge: Judge | None = None, *, deterministic: bool = False
) -> tuple[list[float | Missing], dict[str, float]]:
    server = Server(ServerConfig(reflection=False), name="judge")
    address = server.bind()
    judge = judge or Judge()
    server.add(judge_service_pb2_grpc.add_JudgeServiceServicer_to_server, judge, "omnialign.v1.JudgeService")
    server.add(critique_service_pb2_grpc.add_CritiqueServiceServicer_to_server, judge, "omnialign.v1.CritiqueService")
    await server.start()
    server.set_serving()
    spec = Spec(
        job="projects/default/trainingJobs/j", dataset="d", base_model_dir=Path(), output_dir=Path(), cache_dir=Path(),
        judge_address=address, critique_address=address, method="grpo",
        settings=GrpoSettings(rollout=RolloutSettings(deterministic=deterministic)),
    )  # fmt: skip
    try:
        return await Rewarder(spec, terms).rewards(answers)
    finally:
        await server.stop(0)


@pytest.mark.parametrize("kind", ["judge", "critic"])
async def test_a_judge_or_critic_that_abstains_or_fails_gives_no_number_and_an_unreadable_answer_the_lowest(kind: str):
    found = await rewards_of([RewardTerm(**{kind: "file:///model"})], ANSWERS)
    assert found == [1.0, 0.0, Missing("ANSWER_UNPARSABLE"), Missing("PROMPT_TOO_LONG"), 0.0]


async def test_a_reward_that_is_nan_or_infinite_is_no_number():
    found = await rewards_of([RewardTerm(reward_model="file:///rm", weight=2.0)], ANSWERS)
    missing = Missing("REWARD_NOT_FINITE")
    assert found == [5.0, -2.0, missing, missing, Missing("ANSWER_UNREADABLE")]


@pytest.mark.parametrize("deterministic", [False, True])
async def test_every_reward_of_a_deterministic_run_is_deterministic(deterministic: bool):
    judge = Judge()
    terms = [RewardTerm(judge="file:///j"), RewardTerm(critic="file:///c"), RewardTerm(reward_model="file:///r")]
    await rewards_of(terms, [answer("good")], judge, deterministic=deterministic)
    assert judge.deterministic == 3 * [deterministic]


async def test_every_reward_sees_the_prompt_with_the_answer():
    judge = Judge()
    asked = [answer("good", prompt="draw a cat"), answer("bad", prompt="draw a dog", row=1)]
    terms = [RewardTerm(judge="file:///j"), RewardTerm(critic="file:///c"), RewardTerm(reward_model="file:///r")]
    await rewards_of(terms, asked, judge)
    assert sorted(judge.seen) == 3 * [("draw a cat", "good")] + 3 * [("draw a dog", "bad")]


async def test_terms_are_weighted_and_one_without_a_number_takes_the_reward_with_it():
    terms = [RewardTerm(judge="file:///j", weight=3.0), RewardTerm(length_over=1, weight=0.5)]
    found = await rewards_of(terms, ANSWERS)
    assert found[:2] == [3.0 - 1.5, -1.5]
    assert isinstance(found[2], Missing)


async def test_a_term_of_weight_0_is_measured_and_neither_rewards_nor_takes_a_reward_away():
    terms = [RewardTerm(length_over=1), RewardTerm(judge="file:///j", weight=0.0)]
    found, means = await rewards_and_means_of(terms, ANSWERS)
    assert found == [-3.0] * len(ANSWERS)
    assert means["judge"] == pytest.approx(1 / 3)  # of the three that have a number


async def test_an_answer_is_well_formed_if_it_ends_can_be_read_and_is_not_empty():
    cases = [answer("good"), answer("good", is_finished=False), answer(None), answer("")]
    assert await rewards_of([RewardTerm(well_formed=True)], cases) == [1.0, 0.0, 0.0, 0.0]


async def test_tokens_beyond_the_bound_cost_one_each():
    cases = [answer("good", tokens=count) for count in (3, 5, 9)]
    assert await rewards_of([RewardTerm(length_over=5)], cases) == [0.0, 0.0, -4.0]


async def test_a_checker_scores_with_the_prompt_and_one_that_cannot_gives_no_number():
    task = random_task(random.Random(0), "t2t")
    asked, right = task.text, phrase(task.wanted)
    wrong = phrase(task.wanted, omit=next(iter(task.wanted.attributes)))
    found = await rewards_of(
        [RewardTerm(checker="tinyworld")],
        [
            answer(right, prompt=asked),
            answer(wrong, prompt=asked),
            answer(right, prompt="who are you?"),
            answer(None, prompt=asked),
        ],
    )
    assert found[0] == 1.0
    assert isinstance(found[1], float) and 0 < found[1] < 1
    assert found[2:] == [Missing("PROMPT_FOREIGN"), 0.0]


def test_terms_of_one_kind_have_names_of_their_own():
    terms = [RewardTerm(judge="a"), RewardTerm(well_formed=True), RewardTerm(judge="b")]
    assert term_names(terms) == ["judge_1", "well_formed", "judge_2"]


def test_a_sum_that_is_too_large_is_no_number():
    assert weighted_sum([1e308, 1e308], [1.0, 1.0]) == Missing("REWARD_NOT_FINITE")


def test_a_step_without_any_reward_says_what_became_of_the_answers():
    rollout = Rollout([])
    rollout.dropped.update({"ANSWER_UNPARSABLE": 5, "PROMPT_TOO_LONG": 1})
    error = rewards_missing(rollout.dropped, num_prompts=3)
    assert isinstance(error, FailedPrecondition) and error.reason == "REWARDS_MISSING"
    assert "ANSWER_UNPARSABLE: 5, PROMPT_TOO_LONG: 1" in error.message


@given(st.lists(st.lists(st.one_of(st.none(), st.floats(-9, 9)), min_size=1, max_size=5), min_size=1, max_size=6))
def test_groups_hold_the_rewarded_answers_to_one_prompt_and_fall_below_two(numbers: list[list[float | None]]):
    prompts = [answer("good", row=row).prompt for row in range(len(numbers))]
    answers = [answer("good", row=row, tokens=at + 1) for row, some in enumerate(numbers) for at in range(len(some))]
    rewards = [Missing("SO") if number is None else number for some in numbers for number in some]
    found = grouped(prompts, answers, rewards, smallest=2)
    for row, (some, group) in enumerate(zip(numbers, found, strict=True)):
        left = [(number, at + 1) for at, number in enumerate(some) if number is not None]
        assert [(kept.reward, len(kept.ids)) for kept in group] == (left if len(left) > 1 else [])
        assert {kept.row for kept in group} <= {row}  # samples of one prompt, not what happens to stand side by side


def test_a_group_is_flat_if_all_its_rewards_are_equal():
    one, other = rewarded(answer("good"), 1.0), rewarded(answer("bad"), 0.5)
    assert is_flat([one, one]) and not is_flat([one, other]) and not is_flat([])


@pytest.mark.parametrize(
    ("term", "lacking"),
    [
        ({"checker": "tinyworld"}, "data_address"),
        ({"judge": "file:///j"}, "judge_address"),
        ({"critic": "file:///c"}, "critique_address"),
        ({"length_over": 3}, ""),
    ],
)
def test_a_run_that_cannot_know_a_service_it_needs_names_the_setting(term: dict[str, object], lacking: str):
    spec = Spec(
        job="j", dataset="d", base_model_dir=Path(), output_dir=Path(), cache_dir=Path(), refinement_address="here:1",
        method="grpo", settings=GrpoSettings(rollout=RolloutSettings(rewards=(RewardTerm(**term),))),
    )  # fmt: skip
    if not lacking:
        require_addresses(spec)
        return
    with pytest.raises(FailedPrecondition) as caught:
        require_addresses(spec)
    assert (caught.value.reason, caught.value.metadata["setting"]) == ("SERVICE_ADDRESS_MISSING", lacking)
