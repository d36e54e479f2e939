"""Streams of the client while the service restarts: they go on, and nothing is lost or seen twice."""

import asyncio
import hashlib

import pytest

from omnialign.client import AsyncClient
from omnialign.errors import NotFound, Unavailable, to_status
from omnialign.folders import FileEntry, entries_digest
from omnialign.v1 import content_pb2, data_service_pb2_grpc, dataset_pb2, model_pb2, record_pb2
from omnialign.v1 import data_service_pb2 as pb
from services.runtime.config import ServerConfig
from services.runtime.server import Server

FULL_NAME = pb.DESCRIPTOR.services_by_name["DataService"].full_name
RECORDS = [record_pb2.Record(id=f"r{number}") for number in range(6)]
BYTES = bytes(range(200))
FILES = [FileEntry(name, len(BYTES), hashlib.sha256(BYTES).hexdigest()) for name in ("a", "b", "c")]


class Halting(data_service_pb2_grpc.DataServiceServicer):
    """Answers half of each stream and waits; once it is `whole`, all of it."""

    def __init__(self, *, whole: bool) -> None:
        self._whole, self.halted = whole, asyncio.Event()
        self.skipped: list[str] = []
        self.sent: list[bytes] = []

    async def StreamRecords(self, request, context):  # noqa: N802
        yield pb.StreamRecordsResponse(records=RECORDS[:3])
        await self._halt()
        yield pb.StreamRecordsResponse(records=RECORDS[3:])

    async def GetMedia(self, request, context):  # noqa: N802
        yield pb.GetMediaResponse(chunk=BYTES[:100])
        await self._halt()
        yield pb.GetMediaResponse(chunk=BYTES[100:])

    async def StreamQuarantine(self, request, context):  # noqa: N802
        yield pb.StreamQuarantineResponse(records=RECORDS[:3])
        await self._halt()
        yield pb.StreamQuarantineResponse(records=RECORDS[3:])

    async def ImportDataset(self, request, context):  # noqa: N802
        yield pb.ImportDatasetResponse(rows_read=100)
        await self._halt()
        yield pb.ImportDatasetResponse(rows_read=200)
        yield pb.ImportDatasetResponse(rows_read=200, dataset_version=dataset_pb2.DatasetVersion(name="v"))

    async def GetModelVersion(self, request, context):  # noqa: N802
        return model_pb2.ModelVersion(name=request.name, sha256=entries_digest(FILES))

    async def DownloadModel(self, request, context):  # noqa: N802
        self.skipped = list(request.skip_paths)
        for entry in FILES:
            if entry.path not in request.skip_paths:
                yield pb.DownloadModelResponse(
                    file=pb.DownloadedFile(path=entry.path, size_bytes=entry.size_bytes, sha256=entry.sha256)
                )
                yield pb.DownloadModelResponse(chunk=BYTES)
                if entry is not FILES[0]:
                    await self._halt()

    async def UploadMedia(self, requests, context):  # noqa: N802
        size_bytes = 0
        async for request in requests:
            size_bytes += len(request.chunk)
            await self._halt()
        return pb.UploadMediaResponse(media=content_pb2.Media(size_bytes=size_bytes))

    async def UploadManyMedia(self, requests, context):  # noqa: N802
        async for request in requests:
            if request.HasField("header"):
                continue
            if request.HasField("offer"):
                missing = to_status(NotFound("It is not there.", reason="MEDIA_NOT_FOUND"))
                yield pb.UploadManyMediaResponse(media=[pb.KeptMedium(key=request.offer.key, error=missing)])
                continue
            if self.sent:
                await self._halt()
            self.sent.append(request.medium.data)
            digest = hashlib.sha256(request.medium.data).hexdigest()
            kept = pb.KeptMedium(key=request.medium.key, media=content_pb2.Media(sha256=digest))
            yield pb.UploadManyMediaResponse(media=[kept])

    async def UploadFiles(self, requests, context):  # noqa: N802
        paths, size_bytes = [], 0
        async for request in requests:
            size_bytes += len(request.chunk)
            paths += [request.file.path] if request.HasField("file") else []
            if len(paths) == len(FILES):
                await self._halt()
        return pb.UploadFilesResponse(upload=f"{','.join(paths)}: {size_bytes}")

    async def GetUploadProgress(self, request, context):  # noqa: N802
        return pb.GetUploadProgressResponse(file_count=2 if self._whole else 0)

    async def _halt(self) -> None:
        self.halted.set()
        if not self._whole:
            await asyncio.Event().wait()


async def start(*, whole: bool, port: int = 0) -> tuple[Server, Halting]:
    server, servicer = Server(ServerConfig(port=port), name="data"), Halting(whole=whole)
    server.add(data_service_pb2_grpc.add_DataServiceServicer_to_server, servicer, FULL_NAME)
    await server.start()
    server.set_serving()
    return server, servicer


async def records(client, folder):
    return [record.id async for record in client.stream_records("projects/default/datasets/d")]


async def quarantine(client, folder):
    return [record.id async for record in client.stream_quarantine("projects/default/datasets/d")]


async def imported(client, folder):
    return [progress.rows_read async for progress in client.import_dataset("rows", "/rows")]


async def model(client, folder):
    await client.download_model("projects/default/models/m/versions/1", folder / "model")
    return sorted(path.name for path in (folder / "model").iterdir())


async def download(client, folder):
    return await client.get_media(hashlib.sha256(BYTES).hexdigest())


async def upload(client, folder):
    return (await client.upload_media(BYTES, modality=content_pb2.MODALITY_IMAGE)).size_bytes


async def files(client, folder):
    for entry in FILES:
        (folder / entry.path).write_bytes(BYTES)
    return await client.upload_files(folder)


async def media(client, folder):
    for entry in FILES:
        (folder / entry.path).write_bytes(entry.path.encode())
    paths = [folder / entry.path for entry in FILES]
    return [file.path.name async for file in client.upload_media_files(paths)]


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (records, [r.id for r in RECORDS]),
        (quarantine, [r.id for r in RECORDS]),
        (imported, [100, 200, 200]),
        (model, [entry.path for entry in FILES]),
        (download, BYTES),
        (upload, len(BYTES)),
        (files, f"a,b,c: {len(BYTES)}"),
        (media, ["a", "b", "c"]),
    ],
)
async def test_a_stream_goes_on_after_a_restart_with_each_part_once(call, expected, tmp_path):
    server, servicer = await start(whole=False)
    async with AsyncClient(server.address) as client:
        answer = asyncio.create_task(call(client, tmp_path))
        await asyncio.wait_for(servicer.halted.wait(), timeout=20)
        await server.stop(0)
        server, second = await start(whole=True, port=int(server.address.rpartition(":")[2]))
        assert await asyncio.wait_for(answer, timeout=30) == expected
    assert second.skipped == (["a"] if call is model else [])
    assert second.sent == ([b"b", b"c"] if call is media else [])
    await server.stop(0)


async def test_a_service_that_was_never_there_is_not_waited_for(tmp_path):
    async with AsyncClient("127.0.0.1:1") as client:
        for call in (records, quarantine, imported, model, download, upload, files, media):
            with pytest.raises(Unavailable):
                await asyncio.wait_for(call(client, tmp_path), timeout=20)


async def test_a_transfer_that_begins_while_the_service_restarts_waits_for_it_unless_told_not_to(tmp_path):
    server, _ = await start(whole=True)
    async with (
        AsyncClient(server.address) as client,
        AsyncClient(server.address, waits_for_restarts=False) as impatient,
    ):
        for each in (client, impatient):
            await records(each, tmp_path)
        await server.stop(0)
        transfers = (quarantine, imported, model, download, upload, files, media)
        waiting = [asyncio.create_task(call(client, tmp_path)) for call in transfers]
        with pytest.raises(Unavailable):
            await records(impatient, tmp_path)
        server, _ = await start(whole=True, port=int(server.address.rpartition(":")[2]))
        await asyncio.wait_for(asyncio.gather(*waiting), timeout=60)
    await server.stop(0)
