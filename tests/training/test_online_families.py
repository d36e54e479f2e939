"""Reinforcement learning of a processor family over real services: no answer holds what stands for media."""

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from omnialign.client import AsyncClient
from omnialign.content import content
from omnialign.modeling.adapters import load_adapter
from omnialign.v1 import record_pb2
from tests.model_factory.families import FAMILIES
from tests.services.inference.service_stack import serve_stack
from tests.training.multimodal import measures, medium
from tests.training.test_online import write
from training import launch

NAME = "qwen2_5_omni"
STEPS, ANSWERS, LONGEST = 2, 4, 24
SAMPLES = {"grpo": {"group_size": ANSWERS}, "ppo": {"num_samples": ANSWERS}}


async def commit_prompts(client: AsyncClient) -> str:
    """A dataset whose prompts show a picture, a sound, and nothing; returns its name."""
    dataset = await client.create_dataset("shown")
    shown = [medium(kind, seed=2) for kind in ("image", "audio")]
    uploaded = [await client.upload_media(piece.data, modality=piece.modality) for piece in shown]
    prompts = [content("What is it?", one) for one in uploaded] + [content("Who?"), content("Who is it then?")]
    records = [record_pb2.Record(id=f"r{n}", subtask="t2t", prompt=prompt) for n, prompt in enumerate(prompts)]
    await client.append_records(dataset.name, records)
    await client.commit_version(dataset.name)
    return str(dataset.name)


async def train(folder: Path, method: str, document: dict[str, Any]) -> int:
    """Runs a job on two ranks to its end, and returns the exit code."""
    write(folder, document)
    environment = launch.environment(os.environ, num_processes=2, num_cpus=2) | {"PYTHONPATH": str(Path.cwd())}
    command = launch.command(method, spec_path=folder / "job.yaml", num_processes=2)
    with (folder / "log.txt").open("wb") as log:
        run = await asyncio.create_subprocess_exec(*command, env=environment, stdout=log, stderr=log)
        return await run.wait()


@pytest.mark.families
@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("method", "zero_stage", "lora", "rate"), [("grpo", 3, {"lora": {"rank": 4}}, 0.1), ("ppo", 2, {}, 0.01)]
)
async def test_a_family_that_reads_media_learns_from_its_own_answers(
    tmp_path: Path, method: str, zero_stage: int, lora: dict[str, Any], rate: float
):
    base, folder = FAMILIES[NAME].build(tmp_path / "base"), tmp_path / "run"
    assert load_adapter(base).unwritable_ids  # of a few hundred tokens, so that a random model would write them
    async with serve_stack(tmp_path / "data") as stack:
        services = ("data_address", "refinement_address", "judge_address", "critique_address")
        document = {
            "job": "projects/default/trainingJobs/run",
            "dataset": await commit_prompts(stack.client),
            **dict.fromkeys(services, stack.server.address),
            "base_model_dir": str(base),
            "output_dir": str(folder),
            "cache_dir": str(folder / "cache"),
            "hyperparameters": {
                "max_steps": STEPS,
                "batch_size": 4,
                "learning_rate": 0.01,
                "beta": 0.05,
                "no_warmup": True,
            },
            "distribution": {"num_processes": 2, "zero_stage": zero_stage},
            method: {**SAMPLES[method], "rollout": {"rewards": [{"length_over": 3}], "max_new_tokens": LONGEST}},
            **lora,
        }
        document["hyperparameters"] |= {"learning_rate": rate, "no_warmup": True}
        assert await train(folder, method, document) == 0, (folder / "log.txt").read_text()[-3000:]
    found = measures(folder)
    assert len(found) == STEPS
    assert [row["dropped/samples"] for row in found] == [0] * STEPS
    # The engine and both ranks find each token equally likely, whatever media its prompt shows, also after a step.
    assert found[1]["kl"] > 1e-3
    assert [row["importance/mean"] for row in found] == pytest.approx([1] * STEPS, abs=1e-3)
