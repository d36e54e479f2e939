"""A real server with a small DataService whose answers the tests choose, and a client for it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from omnialign.client import AsyncClient
from omnialign.client.context import request_id
from omnialign.errors import NotFound
from omnialign.v1 import data_service_pb2, data_service_pb2_grpc, dataset_pb2, record_pb2
from services.runtime.config import ServerConfig
from services.runtime.context import bearer_token, remaining_seconds
from services.runtime.server import Server

FULL_NAME = data_service_pb2.DESCRIPTOR.services_by_name["DataService"].full_name


class Probe(data_service_pb2_grpc.DataServiceServicer):
    """Answers by what the request's name says, and remembers what it saw."""

    def __init__(self) -> None:
        self.entered = asyncio.Event()
        self.release = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.seen: list[dict[str, Any]] = []
        self.failures: dict[str, Callable[[], Exception]] = {}

    def _note(self) -> None:
        self.seen.append(
            {"request_id": request_id(), "remaining": remaining_seconds(), "token": bearer_token()},
        )
        self.entered.set()

    async def _maybe_wait(self, name: str) -> None:
        if name != "wait":
            return
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise

    async def GetDataset(self, request: Any, context: Any) -> dataset_pb2.Dataset:  # noqa: N802
        self._note()
        await self._maybe_wait(request.name)
        if request.name in self.failures:
            raise self.failures[request.name]()
        return dataset_pb2.Dataset(name=request.name)

    async def StreamRecords(self, request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
        self._note()
        yield data_service_pb2.StreamRecordsResponse(records=[record_pb2.Record(id="first")])
        try:
            await self._maybe_wait(request.source)
        finally:
            self.seen.append({"closed": request.source})
        if request.source in self.failures:
            raise self.failures[request.source]()

    async def AppendRecords(self, requests: Any, context: Any) -> Any:  # noqa: N802
        count = 0
        async for request in requests:
            if request.dataset == "missing":
                raise NotFound("No dataset 'missing'", reason="DATASET_NOT_FOUND", metadata={"dataset": "missing"})
            count += len(request.records)
        return data_service_pb2.AppendRecordsResponse(inserted_count=count)


@pytest.fixture
async def probe() -> Probe:
    return Probe()


@pytest.fixture
async def start_server(probe: Probe) -> AsyncIterator[Callable[..., Any]]:
    """Starts servers with the probe: `await start_server(max_concurrent_rpcs=1)`."""
    servers: list[Server] = []

    async def start(
        *,
        prepare: tuple[str, Callable[[], Any]] | None = None,
        check: Callable[[], Any] | None = None,
        **settings: Any,
    ) -> Server:
        server = Server(ServerConfig(**settings), name="probe")
        servers.append(server)
        server.add(data_service_pb2_grpc.add_DataServiceServicer_to_server, probe, FULL_NAME)
        if prepare is not None:
            server.prepare(*prepare, check=check)
        await server.start()
        return server

    yield start
    for server in servers:
        await server.stop(0)


@pytest.fixture
async def server(start_server: Callable[..., Any]) -> Server:
    started: Server = await start_server()
    started.set_serving()
    return started


@pytest.fixture
async def client(server: Server) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(server.address, token="secret") as connected:
        yield connected
