"""Models and datasets that come as uploads, and models that are fetched, on local files and on a real S3 server."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from omnialign.client import AsyncClient
from omnialign.errors import (
    AlreadyExists,
    DataLoss,
    InvalidArgument,
    NotFound,
    OmnialignError,
    ResourceExhausted,
)
from omnialign.v1 import data_service_pb2
from services.inference.models.download_cache import DownloadCache
from services.inference.models.resolver import ModelResolver
from services.runtime.config import ServerConfig
from services.runtime.server import Server
from tests.integration.data_service import IN_OUT, serve_data, write_model
from tests.s3_server import S3Server


async def test_an_uploaded_model_is_registered_and_downloaded_whole(client: AsyncClient, tmp_path: Path) -> None:
    folder, seen = write_model(tmp_path / "model", kilobytes=1500), []
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
    folder, settings = write_model(tmp_path / "model"), tmp_path / "settings"
    version = await client.register_model("base", await client.upload_files(folder) if uploaded else folder.as_uri())
    settings.mkdir()
    await client.download_model_settings(version.name, settings)
    fetched = {path.relative_to(settings) for path in settings.rglob("*") if path.is_file()}
    there = {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}
    assert fetched == {path for path in there if path.suffix != ".safetensors"}
    assert (settings / "config.json").read_bytes() == (folder / "config.json").read_bytes()


async def test_a_model_is_the_same_uploaded_or_in_place(client: AsyncClient, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
    placed = await client.register_model("base", folder.as_uri())
    assert await client.register_model("base", await client.upload_files(folder)) == placed
    await client.download_model(placed.name, tmp_path / "copy")
    (folder / "deep" / "more").write_bytes(b"new")  # the folder is no longer what was registered
    with pytest.raises(DataLoss) as caught:
        await client.download_model(placed.name, tmp_path / "other")
    assert caught.value.reason == "MODEL_CORRUPT"
    assert not (tmp_path / "other").exists()


async def test_a_download_goes_on_where_an_earlier_one_ended(client: AsyncClient, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", kilobytes=600)
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
    folder = write_model(tmp_path / "model", kilobytes=20_000)
    size_bytes = (folder / "model.safetensors").stat().st_size
    server = Server(ServerConfig(), name="data")
    async with serve_data(tmp_path / "state", server=server, **on_s3) as client:
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
    folder = write_model(tmp_path / "model")
    version = await client.register_model("base", await client.upload_files(folder))
    local = version.uri.startswith("file://")
    resolver = ModelResolver(client, cache=DownloadCache(tmp_path / "cache", limit_bytes=10**9))
    found = await resolver.folder(version.name)
    if local:
        assert found == Path(version.uri.removeprefix("file://"))
    else:
        assert (found.parent, found.name == version.sha256) == (tmp_path / "cache", False)  # no path can guess it
    assert (found / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()


@pytest.mark.parametrize("name", ["pytorch_model.bin", "deep/x.pkl"])
async def test_an_upload_with_a_pickle_is_no_model(client: AsyncClient, tmp_path: Path, name: str) -> None:
    folder = write_model(tmp_path / "model")
    (folder / name).write_bytes(b"x")
    with pytest.raises(InvalidArgument) as caught:
        await client.register_model("base", await client.upload_files(folder))
    assert caught.value.reason == "MODEL_HAS_PICKLE"


async def test_broken_weights_in_an_upload_are_refused(client: AsyncClient, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
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
    upload = await client.upload_files(write_model(tmp_path / "model"))
    with pytest.raises(NotFound) as caught:
        await client.register_model("base", upload.replace("/default/", "/other/"))
    assert caught.value.reason == "UPLOAD_NOT_FOUND"


async def test_uploads_expire_and_are_swept(backend: dict[str, Any], tmp_path: Path) -> None:
    async with serve_data(tmp_path / "state", upload_seconds=1, sweep_seconds=0.2, **backend) as client:
        upload = await client.upload_files(write_model(tmp_path / "model"))
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
    async with serve_data(tmp_path, max_upload_files=5, max_upload_bytes=1000) as client:

        async def messages() -> AsyncIterator[Message]:
            yield Message(header=Header(parent="projects/default"))
            for path, data, size in files:
                yield Message(file=File(path=path, size_bytes=size))
                if data:
                    yield Message(chunk=data)

        with pytest.raises((InvalidArgument, ResourceExhausted)) as caught:
            await client._transport.upload(client._uploads.UploadFiles, messages)
        assert caught.value.reason == reason


async def test_a_digest_that_does_not_hold_refuses_the_upload(tmp_path: Path) -> None:
    async with serve_data(tmp_path) as client:

        async def messages() -> AsyncIterator[Message]:
            yield Message(header=Header(parent="projects/default"))
            yield Message(file=File(path="a", size_bytes=1, sha256="0" * 64))
            yield Message(chunk=b"x")

        with pytest.raises(InvalidArgument) as caught:
            await client._transport.upload(client._uploads.UploadFiles, messages)
        assert caught.value.reason == "UPLOAD_DIGEST_MISMATCH"
