"""Streams of the client while the service restarts: they go on, and nothing is lost or seen twice."""

import asyncio
import hashlib

import pytest

from omnialign.client import AsyncClient
from omnialign.errors import Unavailable
from omnialign.v1 import content_pb2, data_service_pb2_grpc, record_pb2
from omnialign.v1 import data_service_pb2 as pb
from services.runtime.config import ServerConfig
from services.runtime.server import Server

FULL_NAME = pb.DESCRIPTOR.services_by_name["DataService"].full_name
RECORDS = [record_pb2.Record(id=f"r{number}") for number in range(6)]
BYTES = bytes(range(200))


class Halting(data_service_pb2_grpc.DataServiceServicer):
    """Answers half of each stream and waits; once it is `whole`, all of it."""

    def __init__(self, *, whole: bool) -> None:
        self._whole, self.halted = whole, asyncio.Event()

    async def StreamRecords(self, request, context):  # noqa: N802
        yield pb.StreamRecordsResponse(records=RECORDS[:3])
        await self._halt()
        yield pb.StreamRecordsResponse(records=RECORDS[3:])

    async def GetMedia(self, request, context):  # noqa: N802
        yield pb.GetMediaResponse(chunk=BYTES[:100])
        await self._halt()
        yield pb.GetMediaResponse(chunk=BYTES[100:])

    async def UploadMedia(self, requests, context):  # noqa: N802
        size_bytes = 0
        async for request in requests:
            size_bytes += len(request.chunk)
            await self._halt()
        return pb.UploadMediaResponse(media=content_pb2.Media(size_bytes=size_bytes))

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


async def records(client):
    return [record.id async for record in client.stream_records("projects/default/datasets/d")]


async def download(client):
    return await client.get_media(hashlib.sha256(BYTES).hexdigest())


async def upload(client):
    return (await client.upload_media(BYTES, modality=content_pb2.MODALITY_IMAGE)).size_bytes


@pytest.mark.parametrize(
    ("call", "expected"), [(records, [r.id for r in RECORDS]), (download, BYTES), (upload, len(BYTES))]
)
async def test_a_stream_goes_on_after_a_restart_with_each_part_once(call, expected):
    server, servicer = await start(whole=False)
    async with AsyncClient(server.address) as client:
        answer = asyncio.create_task(call(client))
        await asyncio.wait_for(servicer.halted.wait(), timeout=20)
        await server.stop(0)
        server, _ = await start(whole=True, port=int(server.address.rpartition(":")[2]))
        assert await asyncio.wait_for(answer, timeout=30) == expected
    await server.stop(0)


async def test_a_service_that_was_never_there_is_not_waited_for():
    async with AsyncClient("127.0.0.1:1") as client:
        for call in (records, download, upload):
            with pytest.raises(Unavailable):
                await asyncio.wait_for(call(client), timeout=20)
