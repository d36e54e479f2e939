"""Our side of the streaming benchmark: the services as processes, models on vLLM, and a job until pairs are made."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf.json_format import ParseDict

from examples.tinyworld import recipe
from examples.tinyworld.dataset import Sizes, write
from omnialign.client import AsyncClient
from omnialign.content import media_of
from omnialign.modeling.inputs import pieces
from omnialign.v1 import alignment_service_pb2
from services.inference.config import EngineConfig
from tests.vllm.cluster import VllmCluster, vllm_cluster

Job = alignment_service_pb2.AlignmentJob
STAGES = ("sample", "critique", "refine")
SUBTASKS = 8
ENGINE = EngineConfig(cache_budget_bytes=256 << 20)
"""The settings of vLLM on both sides."""


@dataclass
class Stack:
    """The services with their state in a folder."""

    cluster: VllmCluster
    python: str

    async def start(self) -> float:
        """Seconds until all are ready."""
        begun = time.perf_counter()
        await self.cluster.start()
        return time.perf_counter() - begun

    def kill(self) -> None:
        """SIGKILL to everything."""
        for process in self.cluster.processes.values():
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)
        self.cluster.processes.clear()


@asynccontextmanager
async def stack(folder: Path, vllm_python: str) -> AsyncIterator[Stack]:
    """Services that are not started yet; ended with the block."""
    await asyncio.to_thread(folder.mkdir, parents=True)
    cluster = vllm_cluster(folder, vllm_python=vllm_python)
    try:
        yield Stack(cluster, vllm_python)
    finally:
        await asyncio.to_thread(cluster.stop)


async def prepare(client: AsyncClient, folder: Path, records: int, model: Path) -> dict[str, Any]:
    """Imports the prompts and registers the model; returns the job's spec."""
    sizes = Sizes(train=1, prompts=-(-records // SUBTASKS), validation=0, test=1)
    await asyncio.to_thread(write, folder, seed=0, sizes=sizes)
    async for progress in client.import_dataset(recipe.DATASET_ID, str(folder)):
        dataset = progress.dataset_version.name
    base = (await client.register_model(recipe.MODEL_ID, f"file://{model}")).name
    values = recipe.spec(0, dataset=dataset, base_model=base)
    models = {"feedback_model": base, "judge_model": base}
    return values | models | {"max_prompts": records, "max_quarantine_fraction": 1.0, "checkers": []}


async def rows_of(client: AsyncClient, spec: dict[str, Any]) -> list[dict[str, Any]]:
    """The same prompts with their media, for the passes over files."""
    from benchmarks.offline_pass import stored

    found = []
    async for record in client.stream_records(spec["dataset"], splits=["prompts"], limit=spec["max_prompts"]):
        data = {m.sha256: await client.get_media(m.sha256) for m in media_of([record.prompt])}
        found.append({"id": record.id, "subtask": record.subtask, "prompt": stored(pieces(record.prompt, data))})
    return found


async def submit(client: AsyncClient, spec: dict[str, Any]) -> str:
    """Starts the job and returns its name."""
    job = await client.create_alignment_job("bench", ParseDict(spec, alignment_service_pb2.AlignmentSpec()))
    return job.name


async def until(client: AsyncClient, name: str, share: float) -> Job:
    """The job as it is once this share of sampling, criticising and refining is done."""
    async for event in client.watch_alignment_job(name):
        job = event.alignment_job
        if progress(job) >= share:
            return job
        assert job.state not in (Job.STATE_FAILED, Job.STATE_CANCELLED), job.error
    raise AssertionError("the job has ended before")


def progress(job: Job) -> float:
    """The share of the three stages' work that is done; quarantined records count as done for all of them."""
    found = {stage.stage: stage for stage in job.stages if stage.stage in STAGES}
    total = sum(stage.total for stage in found.values())
    gone, done = 0, 0
    for name in STAGES:
        stage = found[name]
        gone += stage.quarantined + stage.abstained
        done += stage.completed + gone
    return min(1.0, done / total) if total else 0.0


async def kept(client: AsyncClient, name: str) -> float:
    """The share of the work that a restarted service still has."""
    return progress(await client.get_alignment_job(name))
