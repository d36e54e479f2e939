"""Calls through the gateway while the service behind it goes away: all of them end as UNAVAILABLE."""

import asyncio

import grpc
import pytest

from omnialign.client.transport import as_error
from omnialign.errors import Unavailable
from omnialign.v1 import data_service_pb2 as pb
from omnialign.v1 import data_service_pb2_grpc, record_pb2
from services.gateway import __main__ as gateway
from services.gateway.__main__ import GatewayConfig
from services.runtime import request_stream
from services.runtime.config import ServerConfig
from services.runtime.server import Server

FULL_NAME = pb.DESCRIPTOR.services_by_name["DataService"].full_name
RECORDS = [record_pb2.Record(id=f"record-number-{i:06}") for i in range(200)]


class Endless(data_service_pb2_grpc.DataServiceServicer):
    """Calls that go on for as long as the server does. Each releases `entered` once it has had its first message.

    Only ListDatasets ends: it tells whether the service can be reached.
    """

    def __init__(self, entered: asyncio.Semaphore) -> None:
        self._entered = entered

    async def StreamRecords(self, request, context):  # noqa: N802
        self._entered.release()
        while True:
            yield pb.StreamRecordsResponse(records=RECORDS)
            await asyncio.sleep(0)

    async def AppendRecords(self, requests, context):  # noqa: N802
        await anext(requests)
        self._entered.release()
        async for _ in requests:
            pass
        return pb.AppendRecordsResponse()

    async def ListDatasets(self, request, context):  # noqa: N802
        return pb.ListDatasetsResponse()

    async def GetDataset(self, request, context):  # noqa: N802
        self._entered.release()
        await asyncio.Event().wait()


async def _behind(entered, *, port=0):
    server = Server(ServerConfig(port=port), name="data")
    server.add(data_service_pb2_grpc.add_DataServiceServicer_to_server, Endless(entered), FULL_NAME)
    await server.start()
    server.set_serving()
    return server


@pytest.fixture
async def stub(entered):
    """The service through a gateway, and a function that restarts it at its port."""
    servers = [await _behind(entered)]
    address = servers[0].address

    async def restart():
        await servers.pop().stop(0)
        servers.append(await _behind(entered, port=int(address.rpartition(":")[2])))

    names = ("data", "refinement", "critique", "judge", "training", "alignment", "evaluation", "annotation")
    front = Server(ServerConfig(), name="gateway")
    async with gateway.wire(front, GatewayConfig(**{f"{name}_address": address for name in names})):
        await front.start()
        front.set_serving()
        async with grpc.aio.insecure_channel(front.address) as channel:
            yield data_service_pb2_grpc.DataServiceStub(channel), restart
        await front.stop(0)
    await servers.pop().stop(0)


@pytest.fixture
async def entered():
    return asyncio.Semaphore(0)


async def _reached(stub):
    """Returns once the gateway has its connection: until then, and for its back-off, it fails calls at once."""
    async with asyncio.timeout(20):
        while True:
            try:
                return await stub.ListDatasets(pb.ListDatasetsRequest(parent="projects/p"))
            except grpc.aio.AioRpcError as failure:
                if failure.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise


async def _download(stub):
    async for _ in stub.StreamRecords(pb.StreamRecordsRequest(source="projects/p/datasets/d"), timeout=30):
        pass


async def _upload(stub):
    call = stub.AppendRecords(timeout=30)
    try:
        while True:
            await call.write(pb.AppendRecordsRequest(dataset="projects/p/datasets/d", records=RECORDS))
            await asyncio.sleep(0)
    except asyncio.InvalidStateError:
        await call


async def _silent_upload(stub):
    call = stub.AppendRecords(timeout=30)
    await call.write(pb.AppendRecordsRequest(dataset="projects/p/datasets/d", records=RECORDS))
    await call


async def _ask(stub):
    await stub.GetDataset(pb.GetDatasetRequest(name="projects/p/datasets/d"), timeout=30)


async def test_calls_of_every_kind_end_as_unavailable_when_the_service_behind_is_restarted(stub, entered, monkeypatch):
    monkeypatch.setattr(request_stream, "MAX_DRAIN_SECONDS", 0.1)  # one of these clients never stops writing
    calls, restart = stub
    for _ in range(4):
        await _reached(calls)
        tasks = [asyncio.create_task(kind(calls)) for kind in (_download, _upload, _silent_upload, _ask) * 3]
        for _ in tasks:
            await asyncio.wait_for(entered.acquire(), timeout=20)
        await restart()
        failures = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), timeout=20)
        assert [failure for failure in failures if not _is_unavailable(failure)] == []


def _is_unavailable(failure):
    return isinstance(failure, grpc.aio.AioRpcError) and isinstance(as_error(failure, address="here"), Unavailable)
