"""SIGKILL to everything at random moments of a job: nothing lost, nothing twice, and the same pairs as without.

`OMNIALIGN_CHAOS_SEED` chooses the moments. The first test has null models and takes a minute; the second runs the real
stack on the tiny world and takes many.
"""

import json
import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from omnialign.client import AsyncClient
from omnialign.v1 import alignment_service_pb2
from services.alignment.job import LOOP_STAGES, PAIRS, of_round
from tests.chaos.stack_process import (
    CommittedWork,
    Job,
    StackProcess,
    StageStatus,
    assert_nothing_redone,
    await_end,
    kill_during,
    read_table,
    written_content,
)
from tests.service_stack import annotated_record, prompt_record

pytestmark = pytest.mark.chaos

SEED = int(os.environ.get("OMNIALIGN_CHAOS_SEED", "7"))
STEPS = int(os.environ.get("OMNIALIGN_CHAOS_STEPS", "240"))
OPTIMIZATION_STEPS = 12
"""So few that the second round finds answers to refine."""
ROUNDS = 2
ROUND = [of_round(stage, number) for number in range(1, ROUNDS + 1) for stage in (*LOOP_STAGES, "optimize")]
LONG = ("feedback_modeling", *ROUND, "evaluate")
"""Stages that take long enough to be hit for certain."""
SOURCES = {"critique": "sample", "refine": "critique", "verify": "refine"}
SOURCES |= {of_round(later, 2): of_round(earlier, 2) for later, earlier in SOURCES.items()}
SOURCES |= {"answers-aligned": "answers-base"}
TABLES = [of_round(name, number) for number in range(1, ROUNDS + 1) for name in (*LOOP_STAGES, PAIRS)]

Submit = Callable[[AsyncClient, Path], Awaitable[Job]]


@asynccontextmanager
async def running(root: Path, command: tuple[str, ...]) -> AsyncIterator[StackProcess]:
    stack = StackProcess(root, command)
    await stack.start()
    try:
        yield stack
    finally:
        stack.kill()


async def submit_null(client: AsyncClient, shared: Path) -> Job:
    dataset = await client.create_dataset("world")
    records = [annotated_record(f"train-{i:03d}") for i in range(8)]
    records += [prompt_record(f"prompt-{i:03d}", split="prompts") for i in range(48)]
    records += [prompt_record(f"test-{i:03d}", split="test") for i in range(16)]
    await client.append_records(dataset.name, records)
    version = await client.commit_version(dataset.name)
    folder = shared / "model"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    save_file({"weight": np.zeros((4, 4), dtype=np.float32)}, folder / "model.safetensors")
    model = await client.register_model("base", folder.as_uri())
    spec = alignment_service_pb2.AlignmentSpec(
        base_model=model.name, dataset=version.name, chunk_size=4, seed=SEED, max_quarantine_fraction=1.0
    )
    spec.sampling.deterministic = True
    spec.rounds = ROUNDS
    return await client.create_alignment_job("chaos", spec)


async def submit_tinyworld(client: AsyncClient, shared: Path) -> Job:
    from examples.tinyworld import dataset, recipe
    from omnialign.cli import spec as specs

    source = shared / "dataset"
    if not source.exists():
        dataset.write(source, seed=SEED, sizes=dataset.Sizes(train=60, prompts=16, validation=0, test=4))
    version = None
    async for progress in client.import_dataset(recipe.DATASET_ID, source.as_uri()):
        version = progress.dataset_version
    assert version is not None
    model = await client.register_model("base", (Path(recipe.__file__).parent / "model").as_uri())
    wanted = specs.build(recipe.spec(SEED, dataset=version.name, base_model=model.name))
    wanted.chunk_size = 4
    wanted.max_quarantine_fraction = 1.0
    wanted.sampling.deterministic = True
    wanted.distribution.num_processes, wanted.distribution.zero_stage = 1, 0
    wanted.distribution.precision = "fp32"
    wanted.feedback_training.max_steps = wanted.judge_training.max_steps = STEPS
    wanted.optimization.hyperparameters.max_steps = OPTIMIZATION_STEPS
    wanted.rounds, wanted.min_yield = ROUNDS, 1e-9
    return await client.create_alignment_job("chaos", wanted)


async def disturbed(stack: StackProcess, job: Job, *, delay_seconds: float) -> list[CommittedWork]:
    """Kills the stack once in every stage."""
    draw = random.Random(SEED)
    before_kills = []
    for stage in [status.stage for status in job.stages]:
        delay = delay_seconds if stage in LONG else 0.02
        before_kills.append(await kill_during(stack, job, stage, delay_seconds=delay, draw=draw))
    return before_kills


async def check_tables(stack: StackProcess, job: Job, calm_stack: StackProcess, calm: Job) -> None:
    """Every id once in every table or the quarantine, and the same content as the calm run's."""
    aside = {record.id for record in await read_table(stack, job, "quarantine")}
    for purpose in (*TABLES, "answers-base", "answers-aligned", "evaluation"):
        found = await read_table(stack, job, purpose)
        ids = [record.id for record in found]
        assert len(ids) == len(set(ids)), f"{purpose} has doubles"
        if purpose in SOURCES:
            before = {record.id for record in await read_table(stack, job, SOURCES[purpose])}
            assert before <= set(ids) | aside, f"{purpose} lost {before - set(ids) - aside}"
        expected = await read_table(calm_stack, calm, purpose)
        assert [(r.id, written_content(r)) for r in found] == [(r.id, written_content(r)) for r in expected], purpose


async def survive(folder: Path, command: tuple[str, ...], submit: Submit, *, delay_seconds: float) -> None:
    async with running(folder / "calm", command) as calm_stack, running(folder / "killed", command) as stack:
        jobs = []
        for one in (calm_stack, stack):
            async with AsyncClient(one.address) as client:
                jobs.append(await submit(client, folder / "shared"))
            if one is calm_stack:
                calm = await await_end(calm_stack, jobs[0])
                assert calm.state == Job.STATE_SUCCEEDED, calm.error
                done = {status.stage for status in calm.stages if status.state == StageStatus.STATE_DONE}
                assert set(LONG) <= done, f"too few OMNIALIGN_CHAOS_STEPS, there was no {set(LONG) - done}"
        before_kills = await disturbed(stack, jobs[1], delay_seconds=delay_seconds)
        job = await await_end(stack, jobs[1])
        assert job.state == Job.STATE_SUCCEEDED, job.error
        hit = set().union(*(before.running for before in before_kills))
        assert set(LONG) <= hit, f"stages not hit: {set(LONG) - hit}"
        assert_nothing_redone(before_kills, stack.committed_work(job.uid))
        await check_tables(stack, job, calm_stack, calm)
        assert job.pairs == calm.pairs
        for mine, theirs in zip(job.stages, calm.stages, strict=True):
            assert (mine.completed, mine.quarantined, mine.abstained, mine.total) == (
                theirs.completed,
                theirs.quarantined,
                theirs.abstained,
                theirs.total,
            ), mine.stage


@pytest.mark.timeout(900)
async def test_a_job_with_null_models_survives_kills_in_every_stage(tmp_path: Path) -> None:
    await survive(tmp_path, ("-m", "tests.chaos.null_stack", "{root}", "{port}"), submit_null, delay_seconds=0.4)


@pytest.mark.timeout(7200)
async def test_a_tinyworld_job_survives_kills_in_every_stage(tmp_path: Path) -> None:
    command = ("-m", "omnialign.cli.main", "up", "--root", "{root}", "--port", "{port}")
    await survive(tmp_path, command, submit_tinyworld, delay_seconds=2.0)
