"""What each method of a job's optimisation is trained on, and with what."""

import pytest

from omnialign.errors import InvalidArgument
from omnialign.v1 import alignment_service_pb2, training_service_pb2
from tests.service_stack import Job, ServiceStack, stage_status

Optimization = alignment_service_pb2.Optimization
TRAINING_JOBS = "projects/default/trainingJobs"


def spec_of(stack: ServiceStack, purpose: str) -> training_service_pb2.TrainingSpec:
    return stack.training.jobs[f"{TRAINING_JOBS}/first-{purpose}"].spec


async def done(stack: ServiceStack, chosen: Optimization, **fields: object) -> Job:
    job = await stack.end_of((await stack.submit(optimization=chosen, **fields)).name)
    assert job.state == Job.STATE_SUCCEEDED, job.error
    return job


async def test_a_method_on_pairs_gets_its_settings_and_a_lora(stack: ServiceStack) -> None:
    chosen = Optimization(method="kto", lora={"rank": 4}, kto={"good_score": 2.5}, hyperparameters={"beta": 0.2})
    job = await done(stack, chosen)
    spec = spec_of(stack, "optimize")
    assert (spec.method, spec.lora.rank, spec.kto.good_score, spec.hyperparameters.beta) == ("kto", 4, 2.5, 0.2)
    assert spec.dataset.endswith("/first-pairs/versions/1")
    assert "reward_modeling" not in [status.stage for status in job.stages]


async def test_self_distillation_reads_the_feedback_on_all_responses(stack: ServiceStack) -> None:
    await done(stack, Optimization(method="sdpo"))
    assert spec_of(stack, "optimize").dataset.endswith("/first-verify/versions/1")


async def test_reinforcement_learning_trains_a_reward_model_on_the_pairs_first(stack: ServiceStack) -> None:
    chosen = Optimization(method="grpo")
    trained = {"reward_model": "trained", "weight": 2.0}, {"judge": "trained"}, {"critic": "trained"}
    for term in (*trained, {"well_formed": True}):
        chosen.grpo.rollout.rewards.add(**term)
    job = await done(stack, chosen, reward_training={"max_steps": 5})
    order = [status.stage for status in job.stages]
    assert order[order.index("pair") :][:3] == ["pair", "reward_modeling", "optimize"]
    assert stage_status(job, "reward_modeling").completed > 0
    reward = spec_of(stack, "reward")
    assert (reward.method, reward.base_model, reward.hyperparameters.max_steps) == ("reward", job.models.base, 5)
    assert reward.dataset.endswith("/first-pairs/versions/1")
    spec = spec_of(stack, "optimize")
    first, second, third, fourth = spec.grpo.rollout.rewards
    assert (first.reward_model, first.weight) == (job.models.reward, 2.0)
    assert job.models.reward.endswith("/first-reward/versions/1")
    assert (second.judge, third.critic, fourth.well_formed) == (job.models.judge, job.models.feedback, True)
    assert (spec.dataset, list(spec.splits)) == (job.spec.dataset, ["prompts"])
    edges = (await stack.client.get_lineage(job.models.aligned)).edges
    sources = {edge.source for edge in edges if edge.relation == "rewarded_by"}
    assert sources == {job.models.reward, job.models.judge, job.models.feedback}


async def test_a_deterministic_job_draws_and_rewards_the_same_answers_again(stack: ServiceStack) -> None:
    chosen = Optimization(method="ppo")
    chosen.ppo.rollout.rewards.add(checker="tinyworld")
    await done(stack, chosen, sampling={"deterministic": True})
    assert spec_of(stack, "optimize").ppo.rollout.deterministic


async def test_without_settings_the_reward_is_that_of_the_trained_model(stack: ServiceStack) -> None:
    job = await done(stack, Optimization(method="grpo"), prompts=8, max_prompts=5)
    (term,) = spec_of(stack, "optimize").grpo.rollout.rewards
    assert term.reward_model == job.models.reward
    assert spec_of(stack, "optimize").dataset.endswith("/first-prompts/versions/1")
    drawn = await stack.records(job, "prompts")
    assert len(drawn) == 5
    assert not any(record.responses for record in drawn)


async def test_rewards_that_name_no_model_of_the_job_need_no_training_of_one(stack: ServiceStack) -> None:
    chosen = Optimization(method="grpo")
    chosen.grpo.rollout.rewards.add(checker="tinyworld")
    job = await done(stack, chosen)
    assert "reward_modeling" not in [status.stage for status in job.stages]
    assert f"{TRAINING_JOBS}/first-reward" not in stack.training.jobs


@pytest.mark.parametrize(
    ("chosen", "binary", "reason"),
    [
        (Optimization(method="dpo", simpo={"margin": 1.0}), False, "METHOD_SETTINGS_WRONG"),
        (Optimization(method="sdpo"), True, "METHOD_NEEDS_FEEDBACK"),
        (
            Optimization(method="ppo", ppo={"rollout": {"rewards": [{"critic": "trained"}]}}),
            True,
            "METHOD_NEEDS_FEEDBACK",
        ),
    ],
)
async def test_a_method_that_cannot_run_so_is_refused_at_once(
    stack: ServiceStack, chosen: Optimization, binary: bool, reason: str
) -> None:
    source = alignment_service_pb2.PAIR_SOURCE_BINARY if binary else alignment_service_pb2.PAIR_SOURCE_UNSPECIFIED
    with pytest.raises(InvalidArgument) as caught:
        await stack.submit(optimization=chosen, pair_source=source)
    assert caught.value.reason == reason


async def test_feedback_model_and_judge_are_trained_as_loras_if_asked(stack: ServiceStack) -> None:
    await done(stack, Optimization(), feedback_modeling_lora={"rank": 8, "merge": True})
    assert [spec_of(stack, purpose).lora.rank for purpose in ("feedback", "judge")] == [8, 8]
    assert not spec_of(stack, "optimize").HasField("lora")
