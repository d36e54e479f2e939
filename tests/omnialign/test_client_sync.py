"""The synchronous client: the same methods, the same errors, from any thread."""

import asyncio
import inspect
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from omnialign.client import AsyncClient, Client
from omnialign.errors import NotFound
from omnialign.v1 import data_service_pb2, data_service_pb2_grpc, dataset_pb2, record_pb2
from services.runtime.config import ServerConfig
from services.runtime.server import Server


class Data(data_service_pb2_grpc.DataServiceServicer):
    def __init__(self) -> None:
        self.closed = threading.Event()

    async def GetDataset(self, request: Any, context: Any) -> dataset_pb2.Dataset:  # noqa: N802
        if request.name == "gone":
            raise NotFound("No 'gone'", reason="DATASET_NOT_FOUND")
        return dataset_pb2.Dataset(name=request.name)

    async def StreamRecords(self, request: Any, context: Any) -> Any:  # noqa: N802
        try:
            for number in range(5):
                yield data_service_pb2.StreamRecordsResponse(records=[record_pb2.Record(id=str(number))])
            if request.source == "endless":
                await asyncio.Event().wait()
        finally:
            self.closed.set()

    async def AppendRecords(self, requests: Any, context: Any) -> Any:  # noqa: N802
        count = 0
        async for request in requests:
            count += len(request.records)
        return data_service_pb2.AppendRecordsResponse(inserted_count=count)


@pytest.fixture
def data() -> Data:
    return Data()


@pytest.fixture
def address(data: Data) -> Iterator[str]:
    """A server on an event loop in another thread, as a caller without asyncio meets it."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    async def start() -> Server:
        server = Server(ServerConfig(), name="test")
        server.add(data_service_pb2_grpc.add_DataServiceServicer_to_server, data, "omnialign.v1.DataService")
        await server.start()
        return server

    server = asyncio.run_coroutine_threadsafe(start(), loop).result()
    yield server.address
    asyncio.run_coroutine_threadsafe(server.stop(0), loop).result()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def test_calls_and_streams_work_without_asyncio(address):
    with Client(address, project="p") as client:
        assert client.parent == "projects/p"
        assert client.get_dataset("a").name == "a"
        assert [record.id for record in client.stream_records("s")] == ["0", "1", "2", "3", "4"]
        records = (record_pb2.Record(id=str(number)) for number in range(300))
        assert client.append_records("d", records).inserted_count == 300


def test_errors_are_typed(address):
    with Client(address) as client, pytest.raises(NotFound) as caught:
        client.get_dataset("gone")
    assert caught.value.reason == "DATASET_NOT_FOUND"


def test_leaving_a_loop_early_ends_the_call(address, data):
    with Client(address) as client:
        for record in client.stream_records("endless"):
            assert record.id == "0"
            break
        assert data.closed.wait(timeout=5)


def test_closing_twice_and_dropping_an_open_stream_is_harmless(address):
    client = Client(address)
    stream = client.stream_records("endless")
    next(stream)
    client.close()
    client.close()
    stream.close()


def test_threads_may_share_a_client(address):
    with Client(address) as client, ThreadPoolExecutor(4) as pool:
        names = [str(number) for number in range(40)]
        assert list(pool.map(lambda name: client.get_dataset(name).name, names)) == names


def test_every_method_of_the_asynchronous_client_is_there_with_its_signature():
    for name, method in inspect.getmembers(AsyncClient, inspect.isfunction):
        if not name.startswith("_"):
            assert inspect.signature(getattr(Client, name)) == inspect.signature(method) or name == "close", name
