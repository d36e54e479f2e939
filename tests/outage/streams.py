"""Everything that a user leaves running for a while: uploads, downloads, lists, imports, deliveries.

Each function does it once and checks what it got.
"""

import asyncio
import json
import os
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from omnialign.client import AsyncClient
from omnialign.folders import folder_digest
from omnialign.v1 import content_pb2, training_service_pb2
from tests.integration.data_service import png_bytes, sha256_hex
from tests.outage.job import Materials
from tests.outage.stand import Stand
from tests.outage.trainer import WAITS
from training.client import POD_RETRIES, TRANSIENT, retry_while_away

GOOD_ROWS, BAD_ROWS = 600, 40
LABELS = (1, 2)
DELIVER_SECONDS = 120.0
TrainingJob = training_service_pb2.TrainingJob


@dataclass(frozen=True)
class Streams:
    """What they read and write, prepared beforehand."""

    client: AsyncClient
    materials: Materials
    folder: Path
    """Files that are uploaded."""
    upload: str
    """Rows that are imported."""
    version: str
    """The name of their version, after the first import."""
    quarantined: tuple[str, ...]
    """The ids of the rows that were set aside."""
    picture: bytes

    def all(self) -> dict[str, Callable[[], Awaitable[None]]]:
        """Each by its name."""
        return {
            "upload of a picture": self.upload_picture,
            "upload of files": self.upload_files,
            "download of a picture": self.download_picture,
            "download of a model": self.download_model,
            "list of records": self.list_records,
            "list of the quarantine": self.list_quarantine,
            "import": self.import_rows,
        }

    async def upload_picture(self) -> None:
        media = await self.client.upload_media(self.picture, modality=content_pb2.MODALITY_IMAGE)
        assert media.sha256 == sha256_hex(self.picture)

    async def upload_files(self) -> None:
        assert await self.client.upload_files(self.folder)

    async def download_picture(self) -> None:
        assert await self.client.get_media(sha256_hex(self.picture)) == self.picture

    async def download_model(self) -> None:
        target = self.folder.parent / f"model-{uuid.uuid4().hex}"
        await self.client.download_model(self.materials.model, target)
        assert folder_digest(target) == folder_digest(self.materials.folder)

    async def list_records(self) -> None:
        found = [record.id async for record in self.client.stream_records(self.version)]
        assert len(found) == len(set(found)) == GOOD_ROWS

    async def list_quarantine(self) -> None:
        name = self.version.partition("/versions/")[0]
        assert tuple([record.id async for record in self.client.stream_quarantine(name)]) == self.quarantined

    async def import_rows(self) -> None:
        seen = [progress async for progress in self.client.import_dataset("rows", self.upload, winner_labels=LABELS)]
        rows = [progress.rows_read for progress in seen]
        assert rows == sorted(rows)
        assert seen[-1].dataset_version.name == self.version


async def prepare_streams(client: AsyncClient, materials: Materials, folder: Path) -> Streams:
    """Uploads what will be downloaded, and imports what will be imported again."""
    rows = folder / "rows" / "text-to-text"
    rows.mkdir(parents=True)
    good = [{"prompt": f"q{n}", "response_1": "a", "response_2": "b", "overall_response": 1} for n in range(GOOD_ROWS)]
    bad = [{"prompt": f"bad {n}", "response_1": "a", "response_2": "b", "overall_response": 7} for n in range(BAD_ROWS)]
    (rows / "train.jsonl").write_text("\n".join(json.dumps(row) for row in good + bad))
    upload = await client.upload_files(rows, keep_name=True)
    last = [p async for p in client.import_dataset("rows", upload, winner_labels=LABELS)][-1]
    version = last.dataset_version.name
    quarantined = tuple([r.id async for r in client.stream_quarantine(version.partition("/versions/")[0])])
    picture = png_bytes(side=900)
    await client.upload_media(picture, modality=content_pb2.MODALITY_IMAGE)
    files = folder / "files"
    files.mkdir()
    for number in range(4):
        (files / f"{number}.bin").write_bytes(os.urandom(2 << 20))
    return Streams(client, materials, files, upload, version, quarantined, picture)


async def begin_training(client: AsyncClient, materials: Materials, number: int) -> TrainingJob:
    """Starts a training job that waits for its model to be delivered, and returns once it runs."""
    spec = training_service_pb2.TrainingSpec(
        method="dpo",
        base_model=materials.model,
        dataset=materials.dataset,
        output_model_id=f"delivered-{number}",
    )
    job = await client.create_training_job(f"{WAITS}{number}", spec)
    async for event in client.watch_training_job(job.name):
        if event.training_job.state == TrainingJob.STATE_RUNNING:
            return event.training_job
    raise AssertionError("the training job ended before it ran")


async def deliver(stand: Stand, job: TrainingJob, folder: Path) -> None:
    """Delivers a model as the job's pod does, whose client is new and has patience of its own."""
    spec = stand.cluster.folder / "training" / "jobs" / job.uid / "job.yaml"
    token = yaml.safe_load(await asyncio.to_thread(spec.read_text))["token"]

    async def once() -> str:
        async with AsyncClient(stand.cluster.address, token=token) as client:
            return await client.deliver_model(job.name, folder, attempt=1)

    model = await retry_while_away(
        once, policy=replace(POD_RETRIES, budget_seconds=DELIVER_SECONDS), what="delivering", transient=TRANSIENT,
        deadline_seconds=DELIVER_SECONDS,
    )  # fmt: skip
    assert model.split("/versions/")[0].endswith(job.spec.output_model_id)
