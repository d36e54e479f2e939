"""Exports of versions: by parts, resumed where they broke, within the rights and the quota of their project."""

import asyncio
import hashlib
import json
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from omnialign.client import AsyncClient
from omnialign.content import content
from omnialign.errors import DataLoss, FailedPrecondition, InvalidArgument, NotFound, ResourceExhausted
from omnialign.exporting import FORMS
from omnialign.media import write_image
from omnialign.v1 import content_pb2, data_service_pb2
from omnialign.v1.record_pb2 import Record, Response
from services.data.__main__ import wire
from services.data.config import DataConfig
from services.data.exporting.ledger import Ledger, PartFile, paths_of
from services.data.objects import LocalObjectStore
from services.runtime.config import ServerConfig
from services.runtime.limits import Quotas
from services.runtime.server import Server

DATASET, VERSION = "projects/default/datasets/asked", "projects/default/datasets/asked/versions/1"
COUNT = 40


@dataclass(frozen=True)
class Done:
    """A complete export."""

    name: str
    files: dict[str, data_service_pb2.ExportedFile]
    last: data_service_pb2.ExportDatasetResponse


@asynccontextmanager
async def serve(root: Path, *, quotas: str = "", **settings: Any) -> AsyncIterator[AsyncClient]:
    server = Server(ServerConfig(), name="data")
    if quotas:
        (root.parent / "quotas").write_text(quotas)
        server.quotas = Quotas(root.parent / "quotas")
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(wire(server, DataConfig(root=root, **settings)))
        await server.start()
        stack.push_async_callback(server.stop, 0)
        server.set_serving()
        yield await stack.enter_async_context(AsyncClient(server.address))


async def fill(client: AsyncClient, count: int = COUNT) -> None:
    """A version with a picture in each record, every third of which it shares with the one before, and two splits."""
    await client.create_dataset("asked")
    records = []
    for number in range(count):
        pixels = np.random.default_rng(number - (number % 3 == 2)).integers(0, 255, (24, 24, 3), dtype=np.uint8)
        medium = await client.upload_media(write_image(pixels), modality=content_pb2.MODALITY_IMAGE)
        record = Record(id=f"r{number:04d}", subtask="ti2t", split="test" if number % 4 == 0 else "train")
        record.prompt.CopyFrom(content(medium, f"What is {number}?"))
        record.responses.extend(Response(content=content(text), source="m") for text in ("a", "b"))
        record.preference.preferred = 1 + number % 2
        records.append(record)
    await client.append_records(DATASET, records)
    await client.commit_version(DATASET)


async def exported(client: AsyncClient, version: str = VERSION, **options: Any) -> Done:
    files, last = dict[str, data_service_pb2.ExportedFile](), None
    async for last in client.export_dataset(version, **options):
        files |= {file.path: file for file in last.files}
    assert last is not None
    return Done(last.export, files, last)


def stored(root: Path) -> list[Path]:
    return sorted(path for path in (root / "exports").rglob("*") if path.is_file())


def digests(done: Done) -> dict[str, str]:
    return {path: file.sha256 for path, file in done.files.items()}


@pytest.mark.parametrize("form", FORMS)
async def test_what_the_service_exports_is_what_the_command_line_writes(tmp_path: Path, form: str) -> None:
    from omnialign.exporting import export

    async with serve(tmp_path / "state") as client:
        await fill(client, 6)
        done = await exported(client, format=form)
        await client.download_export(done.name, list(done.files.values()), tmp_path / "by-service")
        counts = await export(client.stream_records(VERSION), tmp_path / "here", form=form, read=client.fetch_media)
    assert (done.last.rows_written, dict(done.last.left_out)) == (counts.rows, counts.left_out)
    assert dict(done.last.without) == counts.without
    found, expected = (
        {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        for folder in (tmp_path / "by-service", tmp_path / "here")
    )
    assert found == expected and (found or counts.rows == 0)


async def test_an_export_comes_in_parts_of_bounded_size_with_its_media_and_says_how_far_it_is(tmp_path: Path) -> None:
    async with serve(tmp_path / "state", export_part_bytes=20_000) as client:
        await fill(client)
        done = await exported(client, format="trl")
        await client.download_export(done.name, list(done.files.values()), tmp_path / "out")
    assert max(file.size_bytes for file in done.files.values()) < 30_000
    parts = [path for path in done.files if path.startswith("train-")]
    assert len(parts) > 2 and parts[0] == f"train-00000-of-{len(parts):05d}.jsonl"
    last = done.last
    assert (last.record_count, last.records_read, last.rows_written) == (COUNT, COUNT, COUNT)
    assert last.bytes_written == sum(file.size_bytes for file in done.files.values())
    assert last.without == {"sources of responses": COUNT} and last.dataset_version == VERSION
    rows = [json.loads(line) for path in (tmp_path / "out").glob("*.jsonl") for line in path.read_text().splitlines()]
    assert sorted(row["id"] for row in rows) == [f"r{number:04d}" for number in range(COUNT)]
    for row in rows:
        (name,) = row["images"]
        assert hashlib.sha256((tmp_path / "out" / name).read_bytes()).hexdigest() == Path(name).stem


@pytest.mark.parametrize("form", ["trl", "datasets", "webdataset", "records"])
async def test_an_export_that_breaks_goes_on_with_the_part_it_was_at_and_ends_the_same(
    tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, request_id = {"export_part_bytes": 15_000}, str(uuid.uuid4())
    put, calls = Ledger.put_part, list[int]()

    def broken(self: Ledger, *args: Any, **options: Any) -> list[PartFile]:
        calls.append(1)
        if len(calls) == 3:
            raise FailedPrecondition("The power went.", reason="POWER")
        return put(self, *args, **options)

    async with serve(tmp_path / "state", **settings) as client:
        await fill(client)
        whole = await exported(client, format=form)
        monkeypatch.setattr(Ledger, "put_part", broken)
        with pytest.raises(FailedPrecondition, match="power"):
            await exported(client, format=form, request_id=request_id)
        assert len(calls) == 3
        resumed = await exported(client, format=form, request_id=request_id)
        assert len(calls) < 3 + len(whole.files), "finished parts are not written again"
        assert digests(resumed) == digests(whole)
        again = len(calls)
        same = await exported(client, format=form, request_id=request_id)
        assert (digests(same), len(calls), same.name) == (digests(whole), again, resumed.name)
        with pytest.raises(InvalidArgument) as reused:
            await exported(client, format="messages", request_id=request_id)
        assert reused.value.reason == "REQUEST_ID_REUSED"
    assert not list((tmp_path / "state").glob("export-*"))


async def test_what_is_asked_for_is_exported_and_nothing_else(tmp_path: Path) -> None:
    async with serve(tmp_path / "state") as client:
        await fill(client, 8)
        test = await exported(client, f"{DATASET}/versions/-", splits=["test"], with_media=False)
        assert (list(test.files), test.last.rows_written, test.last.record_count) == (["records.jsonl"], 2, 0)
        none = await exported(client, subtasks=["t2t"], format="trl")
        assert (none.files, none.last.records_read, none.last.HasField("expire_time")) == ({}, 0, True)
        await client.download_export(none.name, [], tmp_path / "empty")
        for version, form, error, reason in [
            (f"{DATASET}/versions/7", "trl", NotFound, "DATASET_VERSION_NOT_FOUND"),
            ("projects/other/datasets/asked/versions/1", "trl", NotFound, "DATASET_NOT_FOUND"),
            (DATASET, "trl", InvalidArgument, "RESOURCE_NAME_INVALID"),
            ("projects/../x", "trl", InvalidArgument, "RESOURCE_NAME_INVALID"),
            (VERSION, "<csv>", InvalidArgument, "FORMAT_UNKNOWN"),
        ]:
            with pytest.raises(error) as refused:
                await exported(client, version, format=form)
            assert refused.value.reason == reason
        assert len(stored(tmp_path / "state")) == 6  # two exports: a plan, a manifest, and of one a part and its marker


async def test_an_export_is_only_found_under_its_own_name(tmp_path: Path) -> None:
    async with serve(tmp_path / "state") as client:
        await fill(client, 2)
        done = await exported(client)
        (file,) = (one for one in done.files.values() if one.path == "records.jsonl")
        other = done.name.replace("projects/default", "projects/other")
        for name, reason in [(other, "EXPORT_NOT_FOUND"), ("projects/default/exports/../../data", ""),
                             (f"projects/default/exports/{'0' * 32}", "EXPORT_NOT_FOUND")]:  # fmt: skip
            with pytest.raises((NotFound, InvalidArgument)) as missing:
                await client.download_export(name, [file], tmp_path / "out")
            assert missing.value.reason == (reason or "RESOURCE_NAME_INVALID")
        file.path = "../../data.db"
        with pytest.raises(Exception, match="outside the target folder"):
            await client.download_export(done.name, [file], tmp_path / "out")
        file.path = "data.db"
        with pytest.raises(NotFound) as missing:
            await client.download_export(done.name, [file], tmp_path / "out")
        assert missing.value.reason == "EXPORT_FILE_NOT_FOUND"


async def test_an_export_expires_and_the_sweep_leaves_nothing(tmp_path: Path) -> None:
    root, request_id = tmp_path / "state", str(uuid.uuid4())
    # Long enough for an export on a busy machine.
    async with serve(root, export_seconds=1, sweep_seconds=0.05) as client:
        await fill(client, 3)
        (root / "export-left").mkdir()
        done = await exported(client, request_id=request_id)
        async with asyncio.timeout(30):
            while stored(root) or list(root.glob("export-*")):
                await client.list_datasets().__anext__()
        with pytest.raises(NotFound) as gone:
            await client.download_export(done.name, list(done.files.values()), tmp_path / "out")
        assert gone.value.reason == "EXPORT_NOT_FOUND"
        assert digests(await exported(client, request_id=request_id)) == digests(done)


async def test_exports_count_for_their_project_and_one_without_room_is_removed(tmp_path: Path) -> None:
    root = tmp_path / "state"
    async with serve(root, quotas="default: {bytes: 300000}\n", export_part_bytes=20_000) as client:
        await fill(client)
        done = await exported(client, format="webdataset")
        assert done.last.bytes_written > 100_000
        before = stored(root)
        with pytest.raises(ResourceExhausted) as full:
            await exported(client, format="webdataset")
        assert full.value.reason == "QUOTA_EXCEEDED"
        assert stored(root) == before


async def test_a_medium_that_is_gone_is_named_and_the_export_goes_on_when_it_is_back(tmp_path: Path) -> None:
    root, request_id = tmp_path / "state", str(uuid.uuid4())
    async with serve(root, export_part_bytes=15_000) as client:
        await fill(client)
        path = max((root / "media" / "sha256").rglob("*"), key=lambda one: one.is_file())
        kept = path.read_bytes()
        path.unlink()
        with pytest.raises(NotFound) as missing:
            await exported(client, format="trl", request_id=request_id)
        assert missing.value.reason == "MEDIA_NOT_FOUND"
        path.write_bytes(kept)
        resumed = await exported(client, format="trl", request_id=request_id)
        assert digests(resumed) == digests(await exported(client, format="trl"))


@pytest.mark.parametrize("form", ["trl", "datasets", "webdataset"])
async def test_media_are_read_together_and_verified(tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    read, calls = LocalObjectStore.read_ranges, list[int]()

    def counted(self: LocalObjectStore, key: str, ranges: Any) -> list[bytes]:
        calls.append(len(ranges))
        return read(self, key, ranges)

    root = tmp_path / "state"
    async with serve(root) as client:
        await fill(client, 2)
        picture = np.random.default_rng(7)
        data = [write_image(picture.integers(0, 255, (24, 24, 3), dtype=np.uint8)) for _ in range(30)]
        paths = [tmp_path / f"{number}.png" for number in range(30)]
        for path, one in zip(paths, data, strict=True):
            path.write_bytes(one)
        media = [one.media async for one in client.upload_media_files(paths)]
        records = [Record(id=f"s{number:04d}", subtask="ti2t", split="train") for number in range(30)]
        for record, medium in zip(records, media, strict=True):
            record.prompt.CopyFrom(content(medium, "What?"))
            record.responses.add(content=content("That."))
        await client.append_records(DATASET, records)
        version = (await client.commit_version(DATASET)).name
        monkeypatch.setattr(LocalObjectStore, "read_ranges", counted)
        done = await exported(client, version, format=form)
        packs = [path for path in (root / "media" / "packs").rglob("*") if path.is_file()]
        assert (done.last.rows_written, sum(calls), len(calls)) == (32, 32, 2 + len(packs)), "each pack is read once"
        for pack in packs:
            pack.write_bytes(pack.read_bytes().replace(data[3][-40:], bytes(40)))
        with pytest.raises(DataLoss) as damaged:
            await exported(client, version, format=form)
        assert damaged.value.reason == "MEDIA_CORRUPT"


async def test_another_dataset_of_the_same_name_is_not_mixed_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request_id = str(uuid.uuid4())
    async with serve(tmp_path / "state") as client:
        await fill(client, 3)
        await exported(client, request_id=request_id)
        await client.delete_dataset(DATASET)
        await fill(client, 4)
        with pytest.raises(FailedPrecondition) as replaced:
            await exported(client, request_id=request_id)
        assert replaced.value.reason == "DATASET_REPLACED"


def test_files_of_one_name_are_numbered() -> None:
    files = [
        PartFile(name, suffix, 1, "", "") for name, suffix in [("a", "tar"), ("b", "tar"), ("a", "tar"), ("a", "x")]
    ]
    assert list(paths_of(files)) == ["a-00000-of-00002.tar", "b.tar", "a-00001-of-00002.tar", "a.x"]


def test_a_process_that_dies_while_it_renames_leaves_nothing_for_good(tmp_path: Path) -> None:
    (tmp_path / "exports" / "x").mkdir(parents=True)
    (tmp_path / "exports" / ".putting-1").write_bytes(b"half")
    (tmp_path / "exports" / "x" / ".putting-2").write_bytes(b"half")
    ledger = Ledger(LocalObjectStore(tmp_path))
    for export_id in ledger.older_than(1 << 62):
        ledger.remove(export_id)
    assert stored(tmp_path) == []
