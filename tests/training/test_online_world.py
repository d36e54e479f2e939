"""A job of reinforcement learning on the tiny world, through all services, with the oracle as its reward."""

import json
import random
from pathlib import Path

import pytest

from examples.tinyworld import recipe
from examples.tinyworld.language import random_task
from omnialign.client import AsyncClient
from omnialign.content import content
from omnialign.v1 import record_pb2
from omnialign.v1.training_service_pb2 import TrainingJob, TrainingSpec
from services.embedded import embedded

STEPS, PART = 20, 5
PROMPTS = 5
"""All of them in every step, so that steps can be compared."""


def rewards_of(root: Path) -> list[float]:
    """The checker's mean score by step, of the only job."""
    (log,) = root.glob("training/jobs/*/output/progress.jsonl")
    return [json.loads(line)["rewards/checker"] for line in log.read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_the_reward_rises_while_a_model_learns_to_play_tones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PYTHONPATH", str(Path.cwd()))
    draw = random.Random(0)
    prompts = [content(random_task(draw, "t2a").text) for _ in range(PROMPTS)]
    async with embedded(tmp_path) as stack, AsyncClient(stack.address) as client:
        dataset = await client.create_dataset("world")
        records = [record_pb2.Record(id=f"p{i}", subtask="t2a", prompt=prompt) for i, prompt in enumerate(prompts)]
        await client.append_records(dataset.name, records)
        await client.commit_version(dataset.name)
        model = await client.register_model("base", (Path(recipe.__file__).parent / "model").as_uri())
        spec = TrainingSpec(method="grpo", base_model=model.name, dataset=dataset.name, output_model_id="player")
        spec.hyperparameters.max_steps, spec.hyperparameters.batch_size = STEPS, PROMPTS
        spec.hyperparameters.learning_rate = 1e-3
        spec.grpo.rollout.max_new_tokens, spec.grpo.rollout.deterministic = 32, True
        spec.grpo.rollout.rewards.add(checker="tinyworld")
        job = await client.create_training_job("rl", spec)
        job = [event async for event in client.watch_training_job(job.name)][-1].training_job
        assert job.state == TrainingJob.STATE_SUCCEEDED, (job.error.message, *job.log_tail)
        assert job.progress.metrics["staleness"] == 0
    rewards = rewards_of(tmp_path)
    assert len(rewards) == STEPS
    assert sum(rewards[-PART:]) / PART > sum(rewards[:PART]) / PART + 0.01
