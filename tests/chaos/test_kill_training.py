"""SIGKILL to trainer, engine and judge, each alone, while a model learns from its own answers.

The run goes on each time, and ends with the same steps and the same policy, bit for bit, as one that nothing disturbed.
`OMNIALIGN_CHAOS_SEED` chooses the moments.
"""

import asyncio
import json
import os
import random
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from examples.tinyworld import recipe
from examples.tinyworld.language import random_task
from omnialign import names
from omnialign.client import AsyncClient
from omnialign.content import content
from omnialign.errors import NotFound
from omnialign.modeling import reward
from omnialign.modeling.model_folder import model_class
from omnialign.v1 import record_pb2
from omnialign.v1.training_service_pb2 import TrainingJob, TrainingSpec
from services.training.job_directory import JobDirectory
from tests.chaos.separate_services import TrainingServices, kill_trainer

pytestmark = pytest.mark.chaos

SEED = int(os.environ.get("OMNIALIGN_CHAOS_SEED", "7"))
STEPS = 12
"""Optimiser steps."""
PROMPTS, GROUP = 4, 4
ROLES = ("trainer", "refinement", "judge")
"""What is killed; the refinement service is the engine that draws the answers."""
STEP_SECONDS = 1.5
"""Kills come up to this long after the step that they wait for: anywhere in a step."""


@dataclass(frozen=True)
class Materials:
    """What both runs learn from, as resource names."""

    dataset: str
    base: str
    reward_model: str


@dataclass(frozen=True)
class Outcome:
    """What a run left."""

    steps: list[dict[str, float]]
    """What was logged, a line each."""
    weights: dict[str, bytes]
    """The files of the delivered policy's weights."""
    counts: dict[str, Any]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def services(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[TrainingServices]:
    async with TrainingServices.running(tmp_path_factory.mktemp("services")) as found:
        yield found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def materials(services: TrainingServices, tmp_path_factory: pytest.TempPathFactory) -> Materials:
    """Prompts for pictures and texts, the tiny world's base model, and a reward model whose head is made by chance."""
    base = Path(recipe.__file__).parent / "model"
    rewarding = tmp_path_factory.mktemp("models") / "reward"
    shutil.copytree(base, rewarding)
    hidden = reward.hidden_size(model_class(base).from_pretrained(base))
    reward.save_head(reward.new_head(hidden, seed=3).weight, rewarding)
    draw = random.Random(SEED)
    async with services.client("data") as client:
        dataset = await client.create_dataset("world")
        records = [
            record_pb2.Record(id=f"{subtask}{i}", subtask=subtask, prompt=content(random_task(draw, subtask).text))
            for i in range(PROMPTS)
            for subtask in ("t2i", "t2t")
        ]
        await client.append_records(dataset.name, records)
        version = await client.commit_version(dataset.name)
        models = [(await client.register_model(path.name, path.as_uri())).name for path in (base, rewarding)]
    return Materials(version.name, *models)


def spec_of(method: str, materials: Materials, *, output: str) -> TrainingSpec:
    """A run whose rewards come from a program, the judge's scores and a reward model."""
    spec = TrainingSpec(
        method=method, base_model=materials.base, dataset=materials.dataset, output_model_id=output, max_restarts=9
    )
    hyper = spec.hyperparameters
    hyper.max_steps, hyper.batch_size, hyper.learning_rate, hyper.seed = STEPS, PROMPTS, 1e-3, SEED
    spec.distribution.num_processes, spec.distribution.precision = 1, "fp32"
    if method == "ppo":
        # Everything that a run must keep: the value head, the control of the KL, answers in use, and older weights.
        spec.ppo.num_samples, spec.ppo.kl_target, spec.ppo.kl_horizon = GROUP, 0.1, 50
        spec.ppo.rollout.num_iterations, spec.ppo.rollout.max_staleness = 2, 2
        hyper.checkpoint_every_steps = 4
    else:
        spec.grpo.group_size = GROUP
        hyper.checkpoint_every_steps = 2
    rollout = spec.ppo.rollout if method == "ppo" else spec.grpo.rollout
    rollout.max_new_tokens, rollout.deterministic = 32, True
    rollout.rewards.add(checker="tinyworld")
    rollout.rewards.add(judge=materials.base)
    rollout.rewards.add(reward_model=materials.reward_model, weight=0.1)
    return spec


async def end_of(client: AsyncClient, job: TrainingJob) -> TrainingJob:
    job = [event async for event in client.watch_training_job(job.name)][-1].training_job
    assert job.state == TrainingJob.STATE_SUCCEEDED, (job.error.message, *job.log_tail)
    return job


async def outcome(services: TrainingServices, job: TrainingJob) -> Outcome:
    async with services.client("data") as client:
        versions = [version async for version in client.list_model_versions()]
    (made,) = (version for version in versions if version.name.startswith(names.unversioned(job.model)))
    return read(services, job, Path(made.uri.removeprefix("file://")))


def read(services: TrainingServices, job: TrainingJob, folder: Path) -> Outcome:
    output = JobDirectory(services.folder / "training" / "jobs" / job.uid).output
    progress = job.progress
    return Outcome(
        steps=[json.loads(line) for line in (output / "progress.jsonl").read_text().splitlines()],
        weights={path.name: path.read_bytes() for path in folder.glob("*.safetensors")},
        counts={
            "steps": progress.completed_steps,
            "examples": progress.examples,
            "tokens": progress.tokens,
            "dropped": dict(progress.dropped),
        },
    )


async def kill(services: TrainingServices, job: TrainingJob, role: str, *, after: int, draw: random.Random) -> None:
    """Kills one role somewhere in the step that follows `after` steps, and brings it back."""
    async with services.client("training") as client:
        while True:
            job = await client.get_training_job(job.name)
            assert job.state in (TrainingJob.STATE_QUEUED, TrainingJob.STATE_RUNNING), (job, services.folder)
            if job.progress.completed_steps >= after:
                break
            await asyncio.sleep(0.05)
    await asyncio.sleep(draw.uniform(0, STEP_SECONDS))
    if role == "trainer":
        await asyncio.to_thread(kill_trainer, job.uid, draw)
    else:
        await services.restart(role)


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("method", "kills_per_role"), [("grpo", 2), ("ppo", 1)])
async def test_a_run_ends_with_the_same_policy_whatever_was_killed(
    services: TrainingServices, materials: Materials, method: str, kills_per_role: int
) -> None:
    draw = random.Random(SEED)
    roles = draw.sample(ROLES * kills_per_role, k=len(ROLES) * kills_per_role)
    async with services.client("training") as client:
        job = await client.create_training_job(f"{method}-calm", spec_of(method, materials, output=f"{method}-calm"))
        calm = await outcome(services, await end_of(client, job))
        assert [line["step"] for line in calm.steps] == list(range(1, STEPS + 1))
        assert len({line["rewards/reward_model"] for line in calm.steps}) > 1  # it was asked about new answers
        job = await client.create_training_job(f"{method}-kills", spec_of(method, materials, output=f"{method}-kills"))
        for number, role in enumerate(roles):
            await kill(services, job, role, after=1 + number * (STEPS - 2) // len(roles), draw=draw)
        job = await end_of(client, job)
        assert job.attempt_count == 1 + kills_per_role
        killed = await outcome(services, job)
    assert killed.steps == calm.steps
    assert killed.counts == calm.counts
    assert killed.weights == calm.weights
    assert len(killed.weights) == 1
    async with services.client("refinement") as client:
        with pytest.raises(NotFound):
            await client.get_policy(f"projects/default/policies/{method}-kills")
