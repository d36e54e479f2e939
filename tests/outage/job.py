"""The job that runs during outages: half a minute of null models, with three training jobs."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from omnialign.client import AsyncClient
from omnialign.v1 import alignment_service_pb2
from tests.service_stack import annotated_record, prompt_record, stage_status

Job = alignment_service_pb2.AlignmentJob
StageStatus = alignment_service_pb2.StageStatus
Counts = dict[str, tuple[int, ...]]
TRAIN, PROMPTS, TEST = 8, 48, 16
WEIGHTS_BYTES = 4 << 20


@dataclass(frozen=True)
class Materials:
    """What jobs work on."""

    dataset: str
    """The name of a version."""
    model: str
    folder: Path
    """The files of the model."""


async def prepare(client: AsyncClient, folder: Path) -> Materials:
    """Uploads a dataset, and a model of a few megabytes that nobody loads."""
    dataset = await client.create_dataset("world")
    records = [annotated_record(f"train-{i:03d}") for i in range(TRAIN)]
    records += [prompt_record(f"prompt-{i:03d}", split="prompts") for i in range(PROMPTS)]
    records += [prompt_record(f"test-{i:03d}", split="test") for i in range(TEST)]
    await client.append_records(dataset.name, records)
    version = await client.commit_version(dataset.name)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "max_position_embeddings": 512}))
    save_file({"weight": np.zeros(WEIGHTS_BYTES // 4, dtype=np.float32)}, folder / "model.safetensors")
    model = await client.register_model("base", await client.upload_files(folder))
    return Materials(version.name, model.name, folder)


async def submit(client: AsyncClient, materials: Materials, job_id: str) -> Job:
    """Submits a job."""
    spec = alignment_service_pb2.AlignmentSpec(
        base_model=materials.model, dataset=materials.dataset, chunk_size=4, seed=7, max_quarantine_fraction=1.0
    )
    spec.sampling.deterministic = True
    return await client.create_alignment_job(job_id, spec)


async def begun(client: AsyncClient, job: Job, stage: str) -> None:
    """Returns once a stage runs."""
    async for event in client.watch_alignment_job(job.name):
        if stage_status(event.alignment_job, stage).state == StageStatus.STATE_RUNNING:
            return
    raise AssertionError(f"the job ended before it came to '{stage}'")


async def end_of(client: AsyncClient, job: Job) -> Job:
    """Watches a job to its end, which must be a success."""
    async for event in client.watch_alignment_job(job.name):
        job = event.alignment_job
    assert job.state == Job.STATE_SUCCEEDED, job.error
    return job


def counts(job: Job) -> Counts:
    """What a job counted: the records of each stage, and the pairs."""
    found = {s.stage: (s.total, s.completed, s.quarantined, s.abstained) for s in job.stages}
    pairs = job.pairs
    return found | {"pairs": (pairs.tried, pairs.kept, pairs.tied, pairs.lost, pairs.abstained)}
