"""The data service on local files and on a real S3 server over TLS: media and tables, the same promises on both."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import lance
import pytest
from prometheus_client import CollectorRegistry

from omnialign.client import AsyncClient
from omnialign.errors import (
    DataLoss,
    InvalidArgument,
    NotFound,
)
from services.data.config import DataConfig
from services.data.objects import open_objects
from services.data.record_rows import SCHEMA
from services.data.record_table import CommitRetries, RecordTable
from tests.integration.data_service import IMAGE, NAME, png_bytes, record_ids, serve_data, sha256_hex, text_records
from tests.s3_server import S3Server


async def test_media_come_back_and_are_one_object(client: AsyncClient) -> None:
    data = png_bytes(side=700)
    media = await client.upload_media(data, modality=IMAGE)
    assert (media.mime_type, media.size_bytes, media.sha256) == ("image/png", len(data), sha256_hex(data))
    assert await client.upload_media(data, modality=IMAGE) == media
    assert await client.get_media(media.sha256) == data
    with pytest.raises(NotFound) as caught:
        await client.get_media("0" * 64)
    assert caught.value.reason == "MEDIA_NOT_FOUND"


async def test_bad_media_are_refused_and_leave_nothing(client: AsyncClient) -> None:
    with pytest.raises(InvalidArgument) as caught:
        await client.upload_media(png_bytes()[:-400], modality=IMAGE)
    assert caught.value.reason == "MEDIA_TRUNCATED"
    with pytest.raises(NotFound):
        await client.get_media(sha256_hex(png_bytes()[:-400]))


async def test_a_damaged_object_on_s3_is_data_loss_until_it_is_uploaded_again(
    s3: S3Server, on_s3: dict[str, Any], tmp_path: Path
) -> None:
    import io

    async with serve_data(tmp_path, **on_s3) as client:
        media = await client.upload_media(png_bytes(), modality=IMAGE)
        prefix, damaged = on_s3["objects_url"].rpartition("/")[2], png_bytes()[:-1] + b"?"
        key = f"{prefix}/media/sha256/{media.sha256[:2]}/{media.sha256[2:]}"
        s3.client().put_object(s3.bucket, key, io.BytesIO(damaged), len(damaged))
        with pytest.raises(DataLoss) as caught:
            await client.get_media(media.sha256)
        assert caught.value.reason == "MEDIA_CORRUPT"
        await client.upload_media(png_bytes(), modality=IMAGE)
        assert await client.get_media(media.sha256) == png_bytes()


async def test_records_and_versions_survive_a_restart(backend: dict[str, Any], tmp_path: Path) -> None:
    async with serve_data(tmp_path / "state", **backend) as client:
        await client.create_dataset("prompts")
        await client.append_records(NAME, text_records(30))
        version = await client.commit_version(NAME)
        await client.append_records(NAME, text_records(30, "other"))
        media = await client.upload_media(png_bytes(), modality=IMAGE)
    async with serve_data(tmp_path / "state", **backend) as client:
        assert [record async for record in client.stream_records(version.name)] == text_records(30)
        assert [record async for record in client.stream_records(NAME)] == text_records(30, "other")
        assert await client.get_media(media.sha256) == png_bytes()
        assert (await client.get_dataset(NAME)).record_count == 30


async def test_a_dataset_of_a_deleted_name_begins_empty(client: AsyncClient) -> None:
    for _ in range(2):
        await client.create_dataset("prompts")
        assert await record_ids(client, NAME) == []
        await client.append_records(NAME, text_records(3))
        assert (await client.commit_version(NAME)).record_count == 3
        await client.delete_dataset(NAME)
    with pytest.raises(NotFound):
        await record_ids(client, NAME)


async def test_many_small_writes_are_compacted_and_versions_stay(backend: dict[str, Any], tmp_path: Path) -> None:
    async with serve_data(tmp_path / "state", compact_fragments=4, retention_seconds=0, **backend) as client:
        await client.create_dataset("prompts")
        for number in range(8):
            await client.append_records(NAME, text_records(1, first=number))
            if number == 3:
                version = await client.commit_version(NAME)
        assert len(await record_ids(client, version.name)) == 4
        assert len(await record_ids(client, NAME)) == 8


def test_a_creator_that_comes_late_changes_nothing(backend: dict[str, Any], tmp_path: Path) -> None:
    objects = open_objects(DataConfig(root=tmp_path, **backend), registry=CollectorRegistry())
    place = objects.table("default/late", uid="u")
    table = RecordTable(place, commit_retries=CommitRetries(5, 30), retention_seconds=3600, compact_fragments=32)
    table.merge(text_records(5))
    table.merge(text_records(9))
    lance.write_dataset(SCHEMA.empty_table(), str(tmp_path / "empty"), mode="create")
    place.publish(tmp_path / "empty")
    assert table.snapshot().count() == 9
    assert table.merge(text_records(10)) == (1, 9)


WRITER = """
import sys, json
from pathlib import Path
from prometheus_client import CollectorRegistry
from omnialign.v1.record_pb2 import Record
from services.data.config import DataConfig
from services.data.objects import open_objects
from services.data.record_table import CommitRetries, RecordTable
settings = json.loads(sys.argv[1])
objects = open_objects(
    DataConfig(root=Path(settings.pop("root")), s3_ca_file=Path(settings.pop("ca")) if "ca" in settings else None,
        **settings), registry=CollectorRegistry())
table = RecordTable(objects.table("default/race", uid="u"), commit_retries=CommitRetries(50, 60),
    retention_seconds=3600, compact_fragments=4)
print("ready", flush=True)
sys.stdin.readline()
for start in range(0, 40, 10):
    table.merge([Record(id=f"r{n:05d}", labels={"writer": sys.argv[2]}) for n in range(start, start + 20)])
    table.improve()
print(table.snapshot().count(), flush=True)
"""


@pytest.mark.slow
def test_processes_that_create_and_write_one_table_at_once_lose_and_double_nothing(
    backend: dict[str, Any], tmp_path: Path
) -> None:
    settings = {key: value for key, value in backend.items() if key != "s3_ca_file"} | {"root": str(tmp_path)}
    if "s3_ca_file" in backend:
        settings["ca"] = str(backend["s3_ca_file"])
    command = [sys.executable, "-c", WRITER, json.dumps(settings)]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    writers = [subprocess.Popen([*command, str(number)], **pipes) for number in range(4)]
    assert [writer.stdout.readline() for writer in writers] == ["ready\n"] * 4  # type: ignore[union-attr]
    for writer in writers:
        writer.stdin.write("\n")  # type: ignore[union-attr]
        writer.stdin.flush()  # type: ignore[union-attr]
    counts = [int(writer.communicate(timeout=90)[0]) for writer in writers]
    assert max(counts) == 50  # the last to end sees every id, once
