"""A data service killed at random moments of exports: each ends with the same files, and nothing is left over."""

import asyncio
import json
import os
import random
import uuid
from pathlib import Path

import numpy as np
import pytest

from omnialign.client import AsyncClient
from omnialign.content import content
from omnialign.media import write_image
from omnialign.v1 import content_pb2
from omnialign.v1.record_pb2 import Record, Response
from tests.chaos.stack_process import StackProcess

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(900)]

KILLS = int(os.environ.get("OMNIALIGN_CHAOS_EXPORT_KILLS", "20"))
RECORDS, PICTURES = 20_000, 400
VERSION = "projects/default/datasets/asked/versions/1"
SERVE = """
import os, runpy
os.environ |= {{"OMNIALIGN_SERVER_PORT": "{port}", "OMNIALIGN_DATA_ROOT": "{root}/data"}} | SETTINGS
runpy.run_module("services.data", run_name="__main__")
"""
SMALL_PARTS = {"OMNIALIGN_DATA_EXPORT_PART_BYTES": "8000000"}
SWEEPING = {f"OMNIALIGN_DATA_{what}_SECONDS": "0.1" for what in ("EXPORT", "UPLOAD", "SWEEP")}
"""What a killed process was writing is swept once it is as old as an upload may be."""


def service(root: Path, settings: dict[str, str]) -> StackProcess:
    program = SERVE.replace("SETTINGS", json.dumps(settings).replace("{", "{{").replace("}", "}}"))
    return StackProcess(root, ["-c", program], look="list_datasets")


async def fill(client: AsyncClient) -> None:
    pictures = [
        await client.upload_media(
            write_image(np.random.default_rng(seed).integers(0, 255, (32, 32, 3), dtype=np.uint8)),
            modality=content_pb2.MODALITY_IMAGE,
        )
        for seed in range(PICTURES)
    ]
    await client.create_dataset("asked")
    records = []
    for number in range(RECORDS):
        prompt = content(pictures[number % PICTURES], f"What is {number}? " + "x" * 100)
        record = Record(id=f"r{number:06d}", subtask="ti2t", split=("train", "test")[number % 5 == 0], prompt=prompt)
        record.responses.extend(Response(content=content(text)) for text in "ab")
        record.preference.preferred = 1
        records.append(record)
    await client.append_records("projects/default/datasets/asked", records)
    await client.commit_version("projects/default/datasets/asked")


async def exported(client: AsyncClient, form: str) -> dict[str, str]:
    """The digests of the files of an export. The client goes on by itself when the service is back."""
    files = dict[str, str]()
    async for event in client.export_dataset(VERSION, format=form, request_id=str(uuid.uuid4())):
        files |= {file.path: file.sha256 for file in event.files}
    return files


def files_below(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


def litter(root: Path, media: set[Path]) -> set[Path]:
    """What is there beside the tables and the media that there were before."""
    return files_below(root / "exports") | set(root.glob("export-*")) | files_below(root / "media") - media


async def test_exports_that_are_killed_end_with_the_same_files_and_leave_nothing(tmp_path: Path) -> None:
    running, rng, kills, rounds = service(tmp_path, SMALL_PARTS), random.Random(7), 0, 0
    await running.start()
    try:
        async with AsyncClient(running.address) as client:
            await fill(client)
            media = files_below(tmp_path / "data" / "media")
            began = asyncio.get_running_loop().time()
            whole = {form: await exported(client, form) for form in ("webdataset", "trl", "datasets")}
            seconds = (asyncio.get_running_loop().time() - began) / len(whole)
            assert all(len(files) > 3 for files in whole.values()), {form: len(files) for form, files in whole.items()}
            while kills < KILLS:
                form = list(whole)[rounds % len(whole)]
                rounds += 1
                task = asyncio.create_task(exported(client, form))
                while kills < KILLS:
                    await asyncio.wait([task], timeout=rng.uniform(0, seconds))
                    if task.done():
                        break
                    await asyncio.to_thread(running.kill)
                    kills += 1
                    await running.start()
                assert await task == whole[form]
            for manifest in (tmp_path / "data" / "exports").glob("*.json"):
                wanted = {tmp_path / "data" / key for *_, key in json.loads(manifest.read_text())["files"]}
                folder = manifest.with_suffix("")
                marks = {folder / "plan.json", *(folder / "parts").iterdir()}
                assert files_below(folder) == wanted | marks
        print(f"{kills} kills in {rounds} exports of {seconds:.1f} s each")
    finally:
        await asyncio.to_thread(running.kill)
    sweeping = service(tmp_path, SMALL_PARTS | SWEEPING)
    await sweeping.start()
    try:
        async with asyncio.timeout(60):
            while litter(tmp_path / "data", media):  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        assert files_below(tmp_path / "data" / "media") == media
    finally:
        await asyncio.to_thread(sweeping.kill)
