"""Runs of reinforcement learning against real refinement and policy services, with rewards that need no model."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

import psutil
import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from omnialign.client import AsyncClient
from omnialign.content import content
from omnialign.errors import NotFound
from omnialign.v1 import generation_pb2, record_pb2, refinement_service_pb2
from tests.services.inference.service_stack import serve_stack
from tests.training.test_resume import tiny_model  # noqa: F401
from training import launch, source
from training.example_file import Examples
from training.examples import Example
from training.rollout.client import answer_seed
from training.spec_file import parse_spec
from training.trainers.grpo import advantages

PROMPTS, GROUP, BOUND, LONGEST, LENGTH_WEIGHT = 6, 4, 3, 8, 0.25
BATCH = 3
"""Prompts of a step."""


async def settle(
    client: AsyncClient, folder: Path, base: Path, *, address: str, method: str = "grpo", **spec: Any
) -> None:
    """A run over prompts of the data service; `spec` has hyperparameters, and settings of the method."""
    dataset = await client.create_dataset(folder.name)
    records = [
        record_pb2.Record(id=f"r{i}", subtask="t2t", prompt=content("say " + "ab"[i % 2] * (i + 1)))
        for i in range(PROMPTS)
    ]
    await client.append_records(dataset.name, records)
    await client.commit_version(dataset.name)
    document: dict[str, Any] = {
        "job": f"projects/default/trainingJobs/{folder.name}",
        "dataset": dataset.name,
        "data_address": address,
        "refinement_address": address,
        "judge_address": address,
        "critique_address": address,
        "base_model_dir": str(base),
        "output_dir": str(folder),
        "cache_dir": str(folder / "cache"),
        method: {
            {"grpo": "group_size", "ppo": "num_samples"}[method]: GROUP,
            "rollout": {
                "rewards": [{"length_over": BOUND, "weight": LENGTH_WEIGHT}, {"well_formed": True}],
                "max_new_tokens": LONGEST,
                "deterministic": True,
            },
        },
    }
    document["hyperparameters"] = spec.get("hyperparameters", {})
    own = dict(spec.get(method, {}))
    document[method]["rollout"] |= own.pop("rollout", {})
    document[method] |= own
    write(folder, document)


def write(folder: Path, document: dict[str, object]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "job.yaml").write_text(yaml.safe_dump(document))


async def start(folder: Path, method: str = "grpo") -> asyncio.subprocess.Process:
    environment = launch.environment(os.environ, num_processes=1, num_cpus=1) | {"PYTHONPATH": str(Path.cwd())}
    command = [sys.executable, "-m", "training", method, "--spec", str(folder / "job.yaml")]
    with (folder / "log.txt").open("ab") as log:
        return await asyncio.create_subprocess_exec(*command, env=environment, stdout=log, stderr=log)


async def finish(folder: Path, method: str = "grpo") -> list[dict[str, float]]:
    """Runs to the end, and returns what was logged of each step."""
    code = await (await start(folder, method)).wait()
    assert code == 0, (folder / "log.txt").read_text()[-3000:]
    return steps(folder)


def steps(folder: Path) -> list[dict[str, float]]:
    """What was logged of each step; a later attempt's word on a step replaces the earlier one's."""
    path = folder / "progress.jsonl"
    lines = path.read_text().splitlines() if path.is_file() else []
    return list({row["step"]: row for row in map(json.loads, lines)}.values())


async def redrawn(
    client: AsyncClient, base: Path, examples: Sequence[Example], rows: Sequence[int], *, step: int
) -> dict[int, list[tuple[list[int], bool]]]:
    """The answers that the base model gives in a step: for each prompt the ids, and whether each ended by itself."""
    items = [
        refinement_service_pb2.GenerateItem(
            id=str(row),
            prompt=record_pb2.Record.FromString(examples[row].record).prompt,
            seed=answer_seed(0, step, row, 0),
        )
        for row in rows
    ]
    sampling = generation_pb2.SamplingParams(temperature=1.0, max_new_tokens=LONGEST, deterministic=True)
    request = refinement_service_pb2.GenerateRequest(
        model=base.as_uri(), sampling=sampling, items=items, num_samples=GROUP, return_tokens=True
    )
    found: dict[int, list[tuple[list[int], bool]]] = {row: [] for row in rows}
    results = [result async for result in client.generate_items(request)]
    for result in sorted(results, key=lambda result: (int(result.id), result.sample)):
        ended = result.response.generation.finish_reason == generation_pb2.FINISH_REASON_END
        found[int(result.id)].append((list(result.tokens.ids), ended and bool(result.response.content.parts)))
    return found


def reward(ids: Sequence[int], is_well_formed: bool) -> float:
    return -LENGTH_WEIGHT * max(len(ids) - BOUND, 0) + is_well_formed


def first_step_by_hand(
    base: Path, examples: Sequence[Example], drawn: dict[int, list[tuple[list[int], bool]]]
) -> tuple[float, float]:
    """Loss and norm of the gradient of the first step, in which all ratios are 1, from unpadded rows."""
    model = AutoModelForCausalLM.from_pretrained(base)
    total, count = torch.zeros(()), sum(len(ids) for group in drawn.values() for ids, _ in group)
    for row, group in drawn.items():
        gains = advantages([reward(*answer) for answer in group])
        for (ids, _), gain in zip(group, gains, strict=True):
            scores = model(torch.tensor([examples[row].prompt + ids])).logits[0].log_softmax(-1)
            first = len(examples[row].prompt) - 1
            own = scores[torch.arange(first, first + len(ids)), torch.tensor(ids)]
            total = total - gain * (own - own.detach()).exp().sum() / count
    total.backward()
    norms = [p.grad.norm() for p in model.parameters() if p.grad is not None]
    return total.item(), torch.stack(norms).norm().item()


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_answers_come_from_the_newest_weights_and_teach_what_the_formula_says(tmp_path: Path, tiny_model: Path):  # noqa: F811
    folder = tmp_path / "run"
    async with serve_stack(tmp_path / "data") as stack:
        hyper = {"batch_size": PROMPTS, "learning_rate": 2e-2, "no_warmup": True, "max_steps": 3, "micro_batch_size": 7}
        await settle(stack.client, folder, tiny_model, address=stack.server.address, hyperparameters=hyper)
        logged = await finish(folder)
        spec = parse_spec(yaml.safe_load((folder / "job.yaml").read_text()), method="grpo")
        examples = Examples(source.cache_path(spec, max_length=1024))
        drawn = [await redrawn(stack.client, tiny_model, examples, range(PROMPTS), step=step) for step in range(3)]
        with pytest.raises(NotFound) as closed:
            await stack.client.get_policy("projects/default/policies/run")
    assert closed.value.reason == "POLICY_NOT_FOUND"
    rewards = [[reward(*answer) for group in groups.values() for answer in group] for groups in drawn]
    means = [sum(found) / len(found) for found in rewards]
    # The first answers are those of the base model; later ones are not, because the policy has changed.
    assert logged[0]["rewards/mean"] == pytest.approx(means[0], abs=1e-6)
    found = (logged[0]["loss"], logged[0]["grad_norm"])
    assert found == pytest.approx(first_step_by_hand(tiny_model, examples, drawn[0]), rel=1e-5)
    assert logged[2]["rewards/mean"] != pytest.approx(means[2], abs=1e-3)
    # And the engine holds the very weights that learn: both find each token equally likely.
    assert [row["importance/mean"] for row in logged] == pytest.approx([1, 1, 1], abs=1e-4)
    assert [row["staleness"] for row in logged] == [0, 0, 0]
    assert not (folder / "policy").exists()


def first_ppo_step_by_hand(
    base: Path, examples: Sequence[Example], drawn: dict[int, list[tuple[list[int], bool]]]
) -> tuple[float, float]:
    """Loss and gradient norm of the first step: all values are 0, nothing departs from the start."""
    model = AutoModelForCausalLM.from_pretrained(base)
    head = torch.zeros(model.config.hidden_size, requires_grad=True)
    answers = [(row, ids, reward(ids, ended)) for row, group in drawn.items() for ids, ended in group]
    mean, spread = (measured([worth for *_, worth in answers]) for measured in (fmean, pstdev))
    returns = [[(worth - mean) / spread] * len(ids) for _, ids, worth in answers]
    every = torch.tensor([value for some in returns for value in some], dtype=torch.float64)
    total = torch.zeros(())
    for (row, ids, _), some in zip(answers, returns, strict=True):
        output = model(torch.tensor([examples[row].prompt + ids]), output_hidden_states=True)
        at = torch.arange(len(examples[row].prompt) - 1, len(examples[row].prompt) - 1 + len(ids))
        own = output.logits[0].log_softmax(-1)[at, torch.tensor(ids)]
        values = output.hidden_states[-1][0][at] @ head
        gains = ((torch.tensor(some).double() - every.mean()) / every.std(unbiased=False)).float()
        losses = -gains * (own - own.detach()).exp() + 0.1 * (values - torch.tensor(some)) ** 2 / 2
        total = total + losses.sum() / len(every)
    total.backward()
    norms = [p.grad.norm() for p in [*model.parameters(), head] if p.grad is not None]
    return total.item(), torch.stack(norms).norm().item()


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_the_first_step_of_ppo_equals_that_by_hand_and_its_model_has_no_value_head(
    tmp_path: Path,
    tiny_model: Path,  # noqa: F811
):
    folder = tmp_path / "run"
    hyper = {"batch_size": PROMPTS, "no_warmup": True, "max_steps": 1, "micro_batch_size": 7}
    async with serve_stack(tmp_path / "data") as stack:
        await settle(
            stack.client, folder, tiny_model, address=stack.server.address, method="ppo", hyperparameters=hyper
        )
        (logged,) = await finish(folder, "ppo")
        spec = parse_spec(yaml.safe_load((folder / "job.yaml").read_text()), method="ppo")
        examples = Examples(source.cache_path(spec, max_length=1024))
        drawn = await redrawn(stack.client, tiny_model, examples, range(PROMPTS), step=0)
    found = (logged["loss"], logged["grad_norm"])
    assert found == pytest.approx(first_ppo_step_by_hand(tiny_model, examples, drawn), rel=1e-5)
    assert (logged["kl"], logged["kl_weight"]) == (pytest.approx(0, abs=1e-6), 0.05)
    assert set(load_file(folder / "model" / "model.safetensors")) == set(load_file(tiny_model / "model.safetensors"))


@pytest.mark.slow
@pytest.mark.chaos
@pytest.mark.timeout(400)
async def test_a_run_that_is_killed_ends_with_the_same_policy_bit_for_bit(tmp_path: Path, tiny_model: Path):  # noqa: F811
    # Two iterations on each batch of answers: checkpoints come at every other step only, whatever is asked for.
    hyper = {"batch_size": BATCH, "learning_rate": 1e-2, "no_warmup": True, "max_steps": 8, "checkpoint_every_steps": 1}
    own = {"num_samples": GROUP, "kl_target": 0.1, "kl_horizon": 50, "rollout": {"num_iterations": 2}}
    async with serve_stack(tmp_path / "data") as stack:
        for name in ("whole", "broken"):
            place = {"address": stack.server.address, "method": "ppo"}
            await settle(stack.client, tmp_path / name, tiny_model, **place, hyperparameters=hyper, ppo=own)
        wanted = await finish(tmp_path / "whole", "ppo")
        run = await start(tmp_path / "broken", "ppo")
        while len(steps(tmp_path / "broken")) < 5:
            assert run.returncode is None
            await asyncio.sleep(0.005)
        psutil.Process(run.pid).send_signal(signal.SIGKILL)
        await run.wait()
        # What the killed attempt left in the engine is newer than the checkpoint.
        found = await finish(tmp_path / "broken", "ppo")
    assert found == wanted
    assert len({row["kl_weight"] for row in wanted}) == 4  # the control moved after each batch of answers
    models = [(tmp_path / name / "model" / "model.safetensors").read_bytes() for name in ("whole", "broken")]
    assert models[0] == models[1]
