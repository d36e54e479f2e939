"""What the pages show in these tests: jobs in every state, records with media, models; and hostile text wherever people
or models write.
"""

import io
import json
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors.numpy import save_file

from omnialign.content import content
from omnialign.v1 import content_pb2, record_pb2
from tests.services.console.conftest import Running
from tests.services.console.hostile import SCRIPT
from tests.services.console.test_jobs import Evaluation, Job, alignment, training
from tests.services.console.test_media import sound

ARABIC = "ما هذا؟ 🙂"


async def fill_console(console: Running, folder: Path) -> list[str]:
    """Fills the services behind a console; returns the paths of all its pages."""
    for state in (Job.STATE_SUCCEEDED, Job.STATE_FAILED, Job.STATE_PAUSED):
        console.jobs.add(alignment(state, f"projects/demo/alignmentJobs/job-{state}"))
    running = console.jobs.add(alignment())
    running.spec.dataset = SCRIPT
    trained = console.jobs.add(training()[0], *training()[1])
    evaluation = Evaluation(name="projects/demo/evaluations/scored", state=Evaluation.STATE_SUCCEEDED)
    evaluation.spec.models.append("projects/demo/models/base/versions/1")
    evaluation.scores.add(
        benchmark="amu",
        measure="understanding",
        model=evaluation.spec.models[0],
        value=7.1,
        low=6.8,
        high=7.4,
        judged=60,
    )
    console.jobs.add(evaluation)
    dataset = await _dataset(console)
    model = await _model(console, folder)
    jobs = [running.name, "projects/demo/alignmentJobs/job-4", trained.name, evaluation.name]
    pages = [
        "projects/demo/jobs",
        "projects/demo/new-alignment-job",
        *jobs,
        "projects/demo/datasets",
        "projects/demo/new-dataset",
        dataset,
        f"{dataset}/versions/1",
    ]
    pages += [f"{dataset}/records", f"{dataset}/quarantine", "projects/demo/models", model.rpartition("/versions/")[0]]
    pages += [model, f"projects/demo/lineage?name={model}", "projects/demo/evaluations"]
    pages += ["projects/demo/compare", "projects/demo/new-alignment-job"]
    return [f"/{page}" for page in pages]


async def _dataset(console: Running) -> str:
    client = console.client
    picture, heard = (
        await client.upload_media(_picture(), modality=content_pb2.MODALITY_IMAGE),
        await client.upload_media(sound(), modality=content_pb2.MODALITY_AUDIO),
    )
    texts = (SCRIPT, ARABIC, "word " * 400)
    records = []
    for number, text in enumerate(texts):
        record = record_pb2.Record(id=f"record-{number}", subtask="tia2t", split="train")
        record.prompt.CopyFrom(content(text, picture, heard))
        for answer in (text, "The other answer."):
            response = record.responses.add(content=content(answer), source=SCRIPT)
            response.feedback.critique, response.feedback.refinement = text, text
            response.feedback.scores.add(dimension="prompt_following", score=2, rationale=text)
        record.preference.preferred, record.preference.reason = 1, text
        records.append(record)
    dataset = await client.create_dataset("scenes")
    await client.append_records(dataset.name, records)
    await client.commit_version(dataset.name)
    return str(dataset.name)


async def _model(console: Running, folder: Path) -> str:
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    save_file({"weight": np.zeros((4, 4), dtype=np.float32)}, folder / "model.safetensors")
    return str((await console.client.register_model("base", folder.as_uri())).name)


def _picture() -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((64, 64, 3), (200, 40, 40), np.uint8)).save(file, format="PNG")
    return file.getvalue()
