"""Trains the policy of an arm: each on what the jobs of its source made, and nothing twice."""

from dataclasses import dataclass, field
from typing import Any

from benchmarks.experiment import rewards
from benchmarks.experiment.arms import DPO_RATE, REWARD_TRAINING, Arm
from benchmarks.experiment.bench import Bench, Spec
from omnialign.v1 import alignment_service_pb2, training_service_pb2


@dataclass(frozen=True)
class Policy:
    """A trained policy, and what is to be told of how it was trained."""

    model: str
    facts: dict[str, Any] = field(default_factory=dict)


async def train(bench: Bench, arm: Arm, rate: float) -> Policy:
    """The policy of an arm with a learning rate."""
    makers = {"": _base, "dpo": _dpo, "sdpo": _sdpo, "ppo": _ppo}
    return await makers[arm.method](bench, arm, rate)


async def _base(bench: Bench, arm: Arm, rate: float) -> Policy:
    del arm, rate
    return Policy(bench.base_model)


async def _dpo(bench: Bench, arm: Arm, rate: float) -> Policy:
    """DPO on the pairs of the source, whose own job has done it with one of the rates."""
    source = await bench.align(arm.source)
    facts = {"pairs": bench.plan.num_pairs, "tried": source.pairs.tried, "kept": source.pairs.kept}
    if rate == DPO_RATE:
        return Policy(source.models.aligned, facts)
    values = {"method": "dpo", "dataset": bench.table(arm.source, "pairs")}
    job = await _optimise(bench, arm, rate, values)
    return Policy(job.model, facts)


async def _sdpo(bench: Bench, arm: Arm, rate: float) -> Policy:
    """SDPO on all responses that the source's feedback model criticised, as an alignment job does it."""
    source = await bench.align(arm.source)
    job = await _optimise(bench, arm, rate, {"method": "sdpo", "dataset": bench.table(arm.source, "verify")})
    return Policy(job.model, {"critiques": source.pairs.tried, "examples": job.progress.examples})


async def _ppo(bench: Bench, arm: Arm, rate: float) -> Policy:
    """PPO with the reward of the arm."""
    source = await bench.align(arm.source)
    reward = await reward_of(bench, arm, source)
    values = rollout_spec(bench, arm.reward, reward)
    job = await _optimise(bench, arm, rate, values)
    samples = values["ppo"].get("num_samples", 1) * values["hyperparameters"]["batch_size"]
    facts = {
        "pairs": bench.plan.num_pairs if arm.reward == "reward_model" else None,
        "rollouts": bench.plan.rollouts,
        "answers": samples * bench.plan.rollouts,
        "steps": values["hyperparameters"]["max_steps"],
        "course": rewards.course(await bench.curve(job.name), term=arm.reward),
        "order": await rewards.order(bench, arm.reward, reward),
    }
    return Policy(job.model, facts)


def rollout_spec(bench: Bench, term: str, reward: str) -> Spec:
    """What PPO is told, but for its rate: the same for every reward. The oracle is measured, and rewards nothing."""
    chosen = bench.recipe("ppo")["optimization"]
    own: Spec = chosen["ppo"]
    own["rollout"]["rewards"] = [{term: reward}, {"checker": "tinyworld", "weight": 0.0}]
    steps = bench.plan.rollouts * own["rollout"].get("num_iterations", 1)
    return {
        "method": "ppo",
        "dataset": bench.dataset,
        "splits": ["prompts"],
        "hyperparameters": {**chosen["hyperparameters"], "max_steps": steps},
        "ppo": own,
    }


async def reward_of(bench: Bench, arm: Arm, source: alignment_service_pb2.AlignmentJob) -> str:
    """The model that rewards the answers of an arm."""
    if arm.reward == "critic":
        return str(source.models.feedback)
    values = {
        "method": "reward",
        "dataset": bench.table(arm.source, "pairs"),
        "hyperparameters": REWARD_TRAINING | ({"max_steps": 12} if bench.plan.small else {}),
    }
    return (await bench.train(f"{arm.source.job_id}-reward", values)).model


async def _optimise(bench: Bench, arm: Arm, rate: float, values: Spec) -> training_service_pb2.TrainingJob:
    given = values.get("hyperparameters") or bench.recipe(arm.method)["optimization"]["hyperparameters"]
    values = {**values, "hyperparameters": {**given, "learning_rate": rate}}
    return await bench.train(f"{arm.job_id}-{rate * 1e6:.0f}", values)
