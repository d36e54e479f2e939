"""Exports in a bucket: links to their files, resumption, and the sweep."""

import asyncio
import hashlib
import uuid
from pathlib import Path
from typing import Any

import pytest

from omnialign.client import AsyncClient
from omnialign.content import content
from omnialign.errors import FailedPrecondition, NotFound
from omnialign.v1 import data_service_pb2
from omnialign.v1.record_pb2 import Record
from services.data.exporting.ledger import Ledger
from services.data.objects.s3 import S3ObjectStore
from tests.integration.data_service import IMAGE, NAME, png_bytes, serve_data
from tests.integration.test_links import fetch
from tests.s3_server import S3Server

COUNT = 24


async def fill(client: AsyncClient) -> str:
    await client.create_dataset("prompts")
    media = [await client.upload_media(png_bytes(seed), modality=IMAGE) for seed in range(COUNT)]
    prompts = [content(medium, f"What is {number}?") for number, medium in enumerate(media)]
    records = [Record(id=f"r{n:03d}", subtask="ti2t", split="train", prompt=prompt) for n, prompt in enumerate(prompts)]
    await client.append_records(NAME, records)
    return (await client.commit_version(NAME)).name


async def exported(
    client: AsyncClient, version: str, request_id: str
) -> tuple[str, dict[str, data_service_pb2.ExportedFile]]:
    files, name = dict[str, data_service_pb2.ExportedFile](), ""
    async for event in client.export_dataset(version, format="webdataset", request_id=request_id):
        files |= {file.path: file for file in event.files}
        name = event.export
    return name, files


async def test_an_export_in_a_bucket_goes_on_after_a_break_has_links_and_expires(
    s3: S3Server, on_s3: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put, calls = Ledger.put_part, list[int]()

    def broken(self: Ledger, *args: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise FailedPrecondition("The power went.", reason="POWER")
        return put(self, *args, **options)

    monkeypatch.setattr(Ledger, "put_part", broken)
    request_id = str(uuid.uuid4())
    async with serve_data(tmp_path / "one", export_part_bytes=100_000, **on_s3) as client:
        version = await fill(client)
        with pytest.raises(FailedPrecondition, match="power"):
            await exported(client, version, request_id)
        assert list((tmp_path / "one").glob("export-*")) == []
    # Another replica, with another local folder and the same bucket and database, goes on.
    database = {"database_url": f"sqlite:///{tmp_path / 'one' / 'data.db'}"}
    async with serve_data(tmp_path / "two", export_part_bytes=100_000, **database, **on_s3) as client:
        name, files = await exported(client, version, request_id)
        assert len(files) > 2 and len(calls) == len(files) + 1
        for file in files.values():
            found = await asyncio.to_thread(fetch, s3, file.url)
            assert (len(found), hashlib.sha256(found).hexdigest()) == (file.size_bytes, file.sha256)
        _, whole = await exported(client, version, str(uuid.uuid4()))
        assert {path: file.sha256 for path, file in whole.items()} == {
            path: file.sha256 for path, file in files.items()
        }
        await client.download_export(name, list(files.values()), tmp_path / "out")
        assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(files)
    async with serve_data(tmp_path / "three", export_seconds=0.1, sweep_seconds=0.1, **database, **on_s3) as client:
        async with asyncio.timeout(30):
            while True:
                try:
                    await client.download_export(name, list(files.values()), tmp_path / "late" / uuid.uuid4().hex)
                except NotFound as error:
                    assert error.reason == "EXPORT_NOT_FOUND"
                    break
                await asyncio.sleep(0.05)


def test_nothing_of_an_export_stays_in_the_bucket(on_s3: dict[str, Any], tmp_path: Path) -> None:
    from prometheus_client import CollectorRegistry

    from services.data.config import DataConfig
    from services.data.objects import open_objects

    objects = open_objects(DataConfig(root=tmp_path, **on_s3), registry=CollectorRegistry())
    assert isinstance(objects, S3ObjectStore)
    objects.put_bytes("exports/x/1", b"")
    objects.put_bytes("exports/x.json", b"")
    ledger = Ledger(objects)
    assert ledger.older_than(0) == []
    assert ledger.older_than(1 << 62) == ["x"]
    ledger.remove("x")
    assert list(objects.list("exports/")) == []
