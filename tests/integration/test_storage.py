"""The data service on local files and on a real S3 server over TLS: the same promises on both."""

import asyncio
import hashlib
import json
import subprocess
import sys
import urllib.error
import urllib.request
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pytest
from prometheus_client import CollectorRegistry
from safetensors.numpy import save_file

from omnialign.client import AsyncClient
from omnialign.content import content
from omnialign.errors import (
    AlreadyExists,
    DataLoss,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    OmnialignError,
    ResourceExhausted,
    Unavailable,
)
from omnialign.media import write_image
from omnialign.v1 import content_pb2, data_service_pb2, record_pb2
from services.data.__main__ import wire
from services.data.config import DataConfig
from services.data.objects import open_objects
from services.data.table import SCHEMA, Budget, RecordTable
from services.inference.model_cache import ModelCache
from services.inference.models import ModelResolver
from services.runtime.config import ServerConfig
from services.runtime.server import Server
from tests.s3_server import S3Server

IN_OUT = ("in", "out")
IMAGE = content_pb2.MODALITY_IMAGE
NAME = "projects/default/datasets/prompts"
Serve = Callable[..., AbstractAsyncContextManager[AsyncClient]]


@asynccontextmanager
async def serve(root: Path, *, server: Server | None = None, **settings: Any) -> AsyncIterator[AsyncClient]:
    """A client of a data service with these settings."""
    server = server or Server(ServerConfig(), name="data")
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(wire(server, DataConfig(root=root, **settings)))
        await server.start()
        stack.push_async_callback(server.stop, 0)
        server.set_serving()
        yield await stack.enter_async_context(AsyncClient(server.address))


@pytest.fixture(params=["local", "s3"])
def backend(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Settings of where objects lie: an own folder or an own prefix in the bucket."""
    if request.param == "local":
        return {}
    return request.getfixturevalue("s3").settings(uuid.uuid4().hex)  # type: ignore[no-any-return]


@pytest.fixture
def on_s3(s3: S3Server) -> dict[str, Any]:
    return s3.settings(uuid.uuid4().hex)


@pytest.fixture
async def client(backend: dict[str, Any], tmp_path: Path) -> AsyncIterator[AsyncClient]:
    async with serve(tmp_path / "state", **backend) as found:
        yield found


def png(seed: int = 0, side: int = 64) -> bytes:
    return write_image(np.random.default_rng(seed).integers(0, 255, (side, side, 3), dtype=np.uint8))


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def records(count: int, text: str = "x", first: int = 0) -> list[record_pb2.Record]:
    found = range(first, first + count)
    return [record_pb2.Record(id=f"r{number:05d}", subtask="t2t", prompt=content(text)) for number in found]


async def ids(client: AsyncClient, source: str) -> list[str]:
    return [record.id async for record in client.stream_records(source)]


def model(folder: Path, seed: int = 0, kilobytes: int = 4) -> Path:
    (folder / "deep").mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    (folder / "deep" / "tokens é.json").write_text("{}")
    (folder / "empty").write_bytes(b"")
    tensor = np.random.default_rng(seed).random((kilobytes, 256), dtype=np.float32)
    save_file({"a": tensor}, folder / "model.safetensors")
    return folder


async def test_media_come_back_and_are_one_object(client: AsyncClient) -> None:
    data = png(side=700)
    media = await client.upload_media(data, modality=IMAGE)
    assert (media.mime_type, media.size_bytes, media.sha256) == ("image/png", len(data), digest(data))
    assert await client.upload_media(data, modality=IMAGE) == media
    assert await client.get_media(media.sha256) == data
    with pytest.raises(NotFound) as caught:
        await client.get_media("0" * 64)
    assert caught.value.reason == "MEDIA_NOT_FOUND"


async def test_bad_media_are_refused_and_leave_nothing(client: AsyncClient) -> None:
    with pytest.raises(InvalidArgument) as caught:
        await client.upload_media(png()[:-400], modality=IMAGE)
    assert caught.value.reason == "MEDIA_TRUNCATED"
    with pytest.raises(NotFound):
        await client.get_media(digest(png()[:-400]))


async def test_a_damaged_object_on_s3_is_data_loss_until_it_is_uploaded_again(
    s3: S3Server, on_s3: dict[str, Any], tmp_path: Path
) -> None:
    import io

    async with serve(tmp_path, **on_s3) as client:
        media = await client.upload_media(png(), modality=IMAGE)
        prefix, damaged = on_s3["objects_url"].rpartition("/")[2], png()[:-1] + b"?"
        key = f"{prefix}/media/sha256/{media.sha256[:2]}/{media.sha256[2:]}"
        s3.client().put_object(s3.bucket, key, io.BytesIO(damaged), len(damaged))
        with pytest.raises(DataLoss) as caught:
            await client.get_media(media.sha256)
        assert caught.value.reason == "MEDIA_CORRUPT"
        await client.upload_media(png(), modality=IMAGE)
        assert await client.get_media(media.sha256) == png()


async def test_records_and_versions_survive_a_restart(backend: dict[str, Any], tmp_path: Path) -> None:
    async with serve(tmp_path / "state", **backend) as client:
        await client.create_dataset("prompts")
        await client.append_records(NAME, records(30))
        version = await client.commit_version(NAME)
        await client.append_records(NAME, records(30, "other"))
        media = await client.upload_media(png(), modality=IMAGE)
    async with serve(tmp_path / "state", **backend) as client:
        assert [record async for record in client.stream_records(version.name)] == records(30)
        assert [record async for record in client.stream_records(NAME)] == records(30, "other")
        assert await client.get_media(media.sha256) == png()
        assert (await client.get_dataset(NAME)).record_count == 30


async def test_a_dataset_of_a_deleted_name_begins_empty(client: AsyncClient) -> None:
    for _ in range(2):
        await client.create_dataset("prompts")
        assert await ids(client, NAME) == []
        await client.append_records(NAME, records(3))
        assert (await client.commit_version(NAME)).record_count == 3
        await client.delete_dataset(NAME)
    with pytest.raises(NotFound):
        await ids(client, NAME)


async def test_many_small_writes_are_compacted_and_versions_stay(backend: dict[str, Any], tmp_path: Path) -> None:
    async with serve(tmp_path / "state", compact_fragments=4, retention_seconds=0, **backend) as client:
        await client.create_dataset("prompts")
        for number in range(8):
            await client.append_records(NAME, records(1, first=number))
            if number == 3:
                version = await client.commit_version(NAME)
        assert len(await ids(client, version.name)) == 4
        assert len(await ids(client, NAME)) == 8


def test_a_creator_that_comes_late_changes_nothing(backend: dict[str, Any], tmp_path: Path) -> None:
    objects = open_objects(DataConfig(root=tmp_path, **backend), registry=CollectorRegistry())
    place = objects.table("default/late", uid="u")
    table = RecordTable(place, budget=Budget(5, 30), retention_seconds=3600, compact_fragments=32)
    table.merge(records(5))
    table.merge(records(9))
    lance.write_dataset(SCHEMA.empty_table(), str(tmp_path / "empty"), mode="create")
    place.publish(tmp_path / "empty")
    assert table.snapshot().count() == 9
    assert table.merge(records(10)) == (1, 9)


WRITER = """
import sys, json
from pathlib import Path
from prometheus_client import CollectorRegistry
from omnialign.v1.record_pb2 import Record
from services.data.config import DataConfig
from services.data.objects import open_objects
from services.data.table import Budget, RecordTable
settings = json.loads(sys.argv[1])
objects = open_objects(
    DataConfig(root=Path(settings.pop("root")), s3_ca_file=Path(settings.pop("ca")) if "ca" in settings else None,
        **settings), registry=CollectorRegistry())
table = RecordTable(objects.table("default/race", uid="u"), budget=Budget(50, 60), retention_seconds=3600,
    compact_fragments=4)
print("ready", flush=True)
sys.stdin.readline()
for start in range(0, 40, 10):
    table.merge([Record(id=f"r{n:05d}", labels={"writer": sys.argv[2]}) for n in range(start, start + 20)])
    table.tidy()
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


async def test_an_uploaded_model_is_registered_and_downloaded_whole(client: AsyncClient, tmp_path: Path) -> None:
    folder, seen = model(tmp_path / "model", kilobytes=1500), []
    upload = await client.upload_files(folder, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1][0] == seen[-1][1] > 1_500_000
    version = await client.register_model("base", upload)
    assert await client.register_model("base", upload) == version
    assert version.parameter_count == 1500 * 256
    assert version.uri.endswith(f"/models/{version.sha256}")
    fetched = await client.download_model("projects/default/models/base/versions/-", tmp_path / "fetched")
    assert fetched == version
    for path in folder.rglob("*"):
        if path.is_file():
            assert (tmp_path / "fetched" / path.relative_to(folder)).read_bytes() == path.read_bytes()
    await client.download_model(version.name, tmp_path / "fetched")  # is there: nothing to do
    (tmp_path / "fetched" / "config.json").write_text("{}")
    with pytest.raises(AlreadyExists) as caught:
        await client.download_model(version.name, tmp_path / "fetched")
    assert caught.value.reason == "FOLDER_EXISTS"


@pytest.mark.parametrize("uploaded", [True, False])
async def test_a_models_settings_come_without_its_weights(client: AsyncClient, tmp_path: Path, uploaded: bool) -> None:
    folder, settings = model(tmp_path / "model"), tmp_path / "settings"
    version = await client.register_model("base", await client.upload_files(folder) if uploaded else folder.as_uri())
    settings.mkdir()
    await client.download_model_settings(version.name, settings)
    fetched = {path.relative_to(settings) for path in settings.rglob("*") if path.is_file()}
    there = {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}
    assert fetched == {path for path in there if path.suffix != ".safetensors"}
    assert (settings / "config.json").read_bytes() == (folder / "config.json").read_bytes()


async def test_a_model_is_the_same_uploaded_or_in_place(client: AsyncClient, tmp_path: Path) -> None:
    folder = model(tmp_path / "model")
    placed = await client.register_model("base", folder.as_uri())
    assert await client.register_model("base", await client.upload_files(folder)) == placed
    await client.download_model(placed.name, tmp_path / "copy")
    (folder / "deep" / "more").write_bytes(b"new")  # the folder is no longer what was registered
    with pytest.raises(DataLoss) as caught:
        await client.download_model(placed.name, tmp_path / "other")
    assert caught.value.reason == "MODEL_CORRUPT"
    assert not (tmp_path / "other").exists()


async def test_a_download_goes_on_where_an_earlier_one_ended(client: AsyncClient, tmp_path: Path) -> None:
    folder = model(tmp_path / "model", kilobytes=600)
    version = await client.register_model("base", await client.upload_files(folder))
    partial = tmp_path / f".fetched.{version.sha256[:16]}.partial"
    partial.mkdir()
    (partial / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    (partial / ".config.json.part").write_bytes(b"torn")
    moved = [0]
    await client.download_model(version.name, tmp_path / "fetched", progress=lambda done, _: moved.append(done))
    assert (tmp_path / "fetched" / "model.safetensors").is_file()
    assert not partial.exists()


async def test_a_large_file_goes_up_in_parts_and_is_counted(
    s3: S3Server, on_s3: dict[str, Any], tmp_path: Path
) -> None:
    folder = model(tmp_path / "model", kilobytes=20_000)
    size_bytes = (folder / "model.safetensors").stat().st_size
    server = Server(ServerConfig(), name="data")
    async with serve(tmp_path / "state", server=server, **on_s3) as client:
        version = await client.register_model("base", await client.upload_files(folder))
        prefix = on_s3["objects_url"].rpartition("/")[2]
        uploads = s3.client().list_objects(s3.bucket, prefix=f"{prefix}/uploads/", recursive=True)
        assert [found.etag for found in uploads if found.size == size_bytes and found.etag.endswith("-2")]
        await client.download_model(version.name, tmp_path / "fetched")
    moved = {way: server.registry.get_sample_value("omnialign_s3_bytes_total", {"direction": way}) for way in IN_OUT}
    assert all(count is not None and count > size_bytes for count in moved.values())
    done = server.registry.get_sample_value("omnialign_s3_requests_total", {"operation": "put", "result": "ok"})
    assert done is not None and done >= 5


async def test_an_engine_that_is_elsewhere_fetches_a_registered_model(client: AsyncClient, tmp_path: Path) -> None:
    folder = model(tmp_path / "model")
    version = await client.register_model("base", await client.upload_files(folder))
    local = version.uri.startswith("file://")
    resolver = ModelResolver(client, cache=ModelCache(tmp_path / "cache", limit_bytes=10**9))
    found = await resolver.folder(version.name)
    assert found == (Path(version.uri.removeprefix("file://")) if local else tmp_path / "cache" / version.sha256)
    assert (found / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()


@pytest.mark.parametrize("name", ["pytorch_model.bin", "deep/x.pkl"])
async def test_an_upload_with_a_pickle_is_no_model(client: AsyncClient, tmp_path: Path, name: str) -> None:
    folder = model(tmp_path / "model")
    (folder / name).write_bytes(b"x")
    with pytest.raises(InvalidArgument) as caught:
        await client.register_model("base", await client.upload_files(folder))
    assert caught.value.reason == "MODEL_HAS_PICKLE"


async def test_broken_weights_in_an_upload_are_refused(client: AsyncClient, tmp_path: Path) -> None:
    folder = model(tmp_path / "model")
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    for broken in (whole[:-1], b"\xff" * 40, b""):
        weights.write_bytes(broken)
        with pytest.raises(InvalidArgument) as caught:
            await client.register_model("base", await client.upload_files(folder))
        assert caught.value.reason == "MODEL_WEIGHTS_INVALID"


async def test_an_upload_is_imported_and_the_folders_name_tells_the_subtask(
    client: AsyncClient, tmp_path: Path
) -> None:
    folder = tmp_path / "text-to-text"
    folder.mkdir()
    rows = [{"prompt": f"q{n}", "response_1": "a", "response_2": "b", "overall_response": 1} for n in range(5)]
    (folder / "train.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    upload = await client.upload_files(folder, keep_name=True)
    done = [progress async for progress in client.import_dataset("prompts", upload)][-1]
    assert done.dataset_version.record_count == 5
    lineage = await client.get_lineage(done.dataset_version.name)
    assert upload in {edge.source for edge in lineage.edges}
    again = [progress async for progress in client.import_dataset("prompts", upload)][-1]
    assert again.dataset_version == done.dataset_version


async def test_an_upload_is_of_its_project_alone(client: AsyncClient, tmp_path: Path) -> None:
    upload = await client.upload_files(model(tmp_path / "model"))
    with pytest.raises(NotFound) as caught:
        await client.register_model("base", upload.replace("/default/", "/other/"))
    assert caught.value.reason == "UPLOAD_NOT_FOUND"


async def test_uploads_expire_and_are_swept(backend: dict[str, Any], tmp_path: Path) -> None:
    async with serve(tmp_path / "state", upload_seconds=1, sweep_seconds=0.2, **backend) as client:
        upload = await client.upload_files(model(tmp_path / "model"))
        async with asyncio.timeout(30):
            while True:
                try:
                    await client.register_model("base", upload)
                except OmnialignError as error:
                    assert error.reason == "UPLOAD_NOT_FOUND"
                    break
                await asyncio.sleep(0.05)


Message = data_service_pb2.UploadFilesRequest
Header = data_service_pb2.UploadFilesHeader
File = data_service_pb2.UploadedFile


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ([], "UPLOAD_EMPTY"),
        ([("/etc/passwd", b"x", 1)], "UPLOAD_PATH_INVALID"),
        ([("a/../../b", b"x", 1)], "UPLOAD_PATH_INVALID"),
        ([("a//b", b"x", 1)], "UPLOAD_PATH_INVALID"),
        ([("a\nb", b"x", 1)], "UPLOAD_PATH_INVALID"),
        ([("a\\b", b"x", 1)], "UPLOAD_PATH_INVALID"),
        ([("a" * 201, b"x", 1)], "UPLOAD_PATH_INVALID"),
        ([("a", b"x", 1), ("a", b"x", 1)], "UPLOAD_PATH_REPEATED"),
        ([("a", b"x", 1), ("a/b", b"x", 1)], "UPLOAD_PATH_REPEATED"),
        ([("a/b", b"x", 1), ("a", b"x", 1)], "UPLOAD_PATH_REPEATED"),
        ([("a", b"x", 2)], "UPLOAD_TRUNCATED"),
        ([("a", b"xyz", 2)], "UPLOAD_TOO_LONG"),
        ([(f"f{n}", b"", 0) for n in range(6)], "UPLOAD_TOO_LARGE"),
        ([("a", b"x", 2000)], "UPLOAD_TOO_LARGE"),
    ],
)
async def test_an_upload_that_is_not_right_is_refused(
    tmp_path: Path, files: list[tuple[str, bytes, int]], reason: str
) -> None:
    async with serve(tmp_path, max_upload_files=5, max_upload_bytes=1000) as client:

        async def messages() -> AsyncIterator[Message]:
            yield Message(header=Header(parent="projects/default"))
            for path, data, size in files:
                yield Message(file=File(path=path, size_bytes=size))
                if data:
                    yield Message(chunk=data)

        with pytest.raises((InvalidArgument, ResourceExhausted)) as caught:
            await client._transport.upload(client._files.UploadFiles, messages)
        assert caught.value.reason == reason


async def test_a_digest_that_does_not_hold_refuses_the_upload(tmp_path: Path) -> None:
    async with serve(tmp_path) as client:

        async def messages() -> AsyncIterator[Message]:
            yield Message(header=Header(parent="projects/default"))
            yield Message(file=File(path="a", size_bytes=1, sha256="0" * 64))
            yield Message(chunk=b"x")

        with pytest.raises(InvalidArgument) as caught:
            await client._transport.upload(client._files.UploadFiles, messages)
        assert caught.value.reason == "UPLOAD_DIGEST_MISMATCH"


def fetch(s3: S3Server, url: str, data: bytes | None = None) -> bytes:
    """PUTs or GETs with the standard library alone."""
    import ssl

    request = urllib.request.Request(url, data=data, method="GET" if data is None else "PUT")
    with urllib.request.urlopen(request, context=ssl.create_default_context(cafile=str(s3.ca_file))) as answer:
        return answer.read()  # type: ignore[no-any-return]


async def test_media_go_up_and_down_by_links(s3: S3Server, on_s3: dict[str, Any], tmp_path: Path) -> None:
    data = png(side=300)
    async with serve(tmp_path, **on_s3) as client:
        link = await client.create_media_upload(digest(data), size_bytes=len(data))
        with pytest.raises(FailedPrecondition) as caught:
            await client.complete_media_upload(link.name)
        assert caught.value.reason == "MEDIA_UPLOAD_EMPTY"
        await asyncio.to_thread(fetch, s3, link.url, data)
        with pytest.raises(NotFound):
            await client.get_media(digest(data))  # nothing is stored before it was proven
        media = await client.complete_media_upload(link.name)
        assert (media.sha256, media.mime_type, media.size_bytes) == (digest(data), "image/png", len(data))
        assert await client.complete_media_upload(link.name) == media
        down = await client.create_media_download(media.sha256)
        assert await asyncio.to_thread(fetch, s3, down.url) == data == await client.get_media(media.sha256)


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (png(1)[:-1], "MEDIA_SIZE_MISMATCH"),
        (png(1)[:-1] + b"?", "MEDIA_DIGEST_MISMATCH"),
    ],
)
async def test_other_bytes_than_were_said_are_refused(
    s3: S3Server, on_s3: dict[str, Any], tmp_path: Path, sent: bytes, reason: str
) -> None:
    async with serve(tmp_path, **on_s3) as client:
        link = await client.create_media_upload(digest(png(1)), size_bytes=len(png(1)))
        await asyncio.to_thread(fetch, s3, link.url, sent)
        with pytest.raises(InvalidArgument) as caught:
            await client.complete_media_upload(link.name)
        assert caught.value.reason == reason


async def test_bytes_that_do_not_decode_are_refused_at_the_end_of_a_link(
    s3: S3Server, on_s3: dict[str, Any], tmp_path: Path
) -> None:
    async with serve(tmp_path, **on_s3) as client:
        link = await client.create_media_upload(digest(png()[:-400]), size_bytes=len(png()[:-400]))
        await asyncio.to_thread(fetch, s3, link.url, png()[:-400])
        with pytest.raises(InvalidArgument) as caught:
            await client.complete_media_upload(link.name, modality=IMAGE)
        assert caught.value.reason == "MEDIA_TRUNCATED"


async def test_an_expired_link_is_refused_by_the_server(s3: S3Server, on_s3: dict[str, Any], tmp_path: Path) -> None:
    async with serve(tmp_path, link_seconds=1, **on_s3) as client:
        media = await client.upload_media(png(), modality=IMAGE)
        down = await client.create_media_download(media.sha256)
        async with asyncio.timeout(20):
            while True:
                try:
                    await asyncio.to_thread(fetch, s3, down.url)
                except urllib.error.HTTPError as error:
                    assert error.code == 403
                    break
                await asyncio.sleep(0.2)


async def test_local_files_have_no_links(tmp_path: Path) -> None:
    async with serve(tmp_path) as client:
        media = await client.upload_media(png(), modality=IMAGE)
        for call in (client.create_media_upload("0" * 64, size_bytes=5), client.create_media_download(media.sha256)):
            with pytest.raises(FailedPrecondition) as caught:
                await call
            assert caught.value.reason == "PRESIGNING_UNAVAILABLE"


async def refused(tmp_path: Path, **settings: Any) -> Unavailable:
    """What calls of a service say that cannot use its storage."""
    async with serve(tmp_path, **settings) as client:
        with pytest.raises(Unavailable) as caught:
            await client.get_dataset(NAME)
        return caught.value


async def test_wrong_credentials_leave_the_service_not_ready_with_the_reason(
    s3: S3Server, on_s3: dict[str, Any], tmp_path: Path
) -> None:
    with s3.credentials(secret="not-the-secret"):
        error = await refused(tmp_path, **on_s3)
    assert (error.reason, error.metadata["cause"]) == ("NOT_READY", "S3_CREDENTIALS_REFUSED")
    assert "not-the-secret" not in error.message


async def test_a_missing_bucket_leaves_the_service_not_ready_with_the_reason(
    s3: S3Server, on_s3: dict[str, Any], tmp_path: Path
) -> None:
    error = await refused(tmp_path, **on_s3 | {"objects_url": "s3://no-such-bucket/x"})
    assert (error.reason, error.metadata["cause"]) == ("NOT_READY", "S3_BUCKET_MISSING")


async def test_a_certificate_that_is_not_trusted_is_named(
    on_s3: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    error = await refused(tmp_path, **on_s3 | {"s3_ca_file": None})
    assert error.metadata["cause"] == "S3_CERTIFICATE_UNTRUSTED"


@pytest.mark.slow
async def test_a_server_that_stops_gives_unavailable_and_the_service_recovers(tmp_path: Path) -> None:
    server = S3Server()
    try:
        with server.credentials():
            server.start()
            async with serve(tmp_path, **server.settings("x")) as client:
                await client.create_dataset("prompts")
                await client.append_records(NAME, records(10))
                media = await client.upload_media(png(), modality=IMAGE)
                await asyncio.to_thread(server.stop)
                for call in (
                    client.get_media(media.sha256, deadline_seconds=30),
                    client.append_records(NAME, records(20), deadline_seconds=30),
                    client.commit_version(NAME),
                ):
                    with pytest.raises(Unavailable) as caught:
                        await call
                    assert caught.value.reason == "S3_UNAVAILABLE"
                await asyncio.to_thread(server.start)
                assert await client.get_media(media.sha256) == png()
                await client.append_records(NAME, records(20))
                assert await ids(client, NAME) == [record.id for record in records(20)]
    finally:
        server.close()


async def test_a_service_that_starts_before_its_server_serves_when_it_is_there(tmp_path: Path) -> None:
    server = S3Server()
    try:
        with server.credentials():
            async with serve(tmp_path, **server.settings("x")) as client:
                with pytest.raises(Unavailable) as caught:
                    await client.get_dataset(NAME)
                assert caught.value.metadata["cause"] == "S3_UNAVAILABLE"
                await asyncio.to_thread(server.start)
                async with asyncio.timeout(60):
                    while True:
                        try:
                            await client.create_dataset("prompts")
                        except Unavailable:
                            await asyncio.sleep(0.1)
                        else:
                            break
    finally:
        server.close()
