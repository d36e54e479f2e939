"""The asynchronous client against real servers that fail in all the ways servers do."""

import asyncio
import hashlib
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from omnialign.client import AsyncClient
from omnialign.client.context import request_id
from omnialign.client.datasets import MAX_CHUNK_BYTES
from omnialign.client.transport import MAX_ATTEMPTS
from omnialign.errors import DataLoss, DeadlineExceeded, NotFound, Unavailable
from omnialign.v1 import (
    content_pb2,
    data_service_pb2,
    data_service_pb2_grpc,
    dataset_pb2,
    record_pb2,
    training_service_pb2,
    training_service_pb2_grpc,
)
from services.runtime.config import ServerConfig
from services.runtime.context import remaining_seconds
from services.runtime.server import Server

DATASET = "projects/default/datasets/d"
JOB = "projects/default/trainingJobs/t"
Job = training_service_pb2.TrainingJob


class Data(data_service_pb2_grpc.DataServiceServicer):
    """Fails the first `failures` calls with UNAVAILABLE and counts them all."""

    def __init__(self) -> None:
        self.failures = 0
        self.calls = 0
        self.batches: list[int] = []
        self.batch_bytes: list[int] = []
        self.media: dict[str, bytes] = {}
        self.onward: Callable[[str], Any] | None = None
        self.seen: list[tuple[str, float | None]] = []

    def _fail(self) -> None:
        self.calls += 1
        if self.calls <= self.failures:
            raise Unavailable("Not now", reason="BACKEND_DOWN")

    async def GetDataset(self, request: Any, context: Any) -> dataset_pb2.Dataset:  # noqa: N802
        self.seen.append((request_id(), remaining_seconds()))
        self._fail()
        if self.onward and request.name == "outer":
            await self.onward("inner")
        return dataset_pb2.Dataset(name=request.name)

    async def DeleteDataset(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._fail()

    async def ListDatasets(self, request: Any, context: Any) -> Any:  # noqa: N802
        start = int(request.page_token or 0)
        datasets = [dataset_pb2.Dataset(name=str(number)) for number in range(start, min(start + 2, 5))]
        token = str(start + 2) if start + 2 < 5 else ""
        return data_service_pb2.ListDatasetsResponse(datasets=datasets, next_page_token=token)

    async def AppendRecords(self, requests: Any, context: Any) -> Any:  # noqa: N802
        names = set()
        async for request in requests:
            names.add(request.dataset)
            self.batches.append(len(request.records))
            self.batch_bytes.append(request.ByteSize())
        self._fail()
        assert DATASET in names
        return data_service_pb2.AppendRecordsResponse(inserted_count=sum(self.batches))

    async def UploadMedia(self, requests: Any, context: Any) -> Any:  # noqa: N802
        header, data = None, b""
        async for request in requests:
            header = header or request.header
            data += request.chunk
        self.media[header.sha256] = data
        media = content_pb2.Media(modality=header.modality, mime_type="image/png", sha256=header.sha256)
        return data_service_pb2.UploadMediaResponse(media=media)

    async def GetMedia(self, request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
        for byte in self.media[request.sha256]:
            yield data_service_pb2.GetMediaResponse(chunk=bytes([byte]))

    async def StreamRecords(self, request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
        self._fail()
        yield data_service_pb2.StreamRecordsResponse(records=[record_pb2.Record(id="a")])
        if request.source == "breaks":
            raise Unavailable("Broken in the middle", reason="BACKEND_DOWN")


class Training(training_service_pb2_grpc.TrainingServiceServicer):
    """A job of `total` events; each stream breaks after `per_stream` of them."""

    def __init__(self, *, total: int = 7, per_stream: int = 100, breaks: type[Exception] | None = Unavailable) -> None:
        self.total, self.per_stream, self.breaks = total, per_stream, breaks
        self.resumed: list[int] = []
        self.hold = asyncio.Event()
        self.hold.set()

    async def WatchTrainingJob(self, request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
        self.resumed.append(request.resume_after)
        for number in range(request.resume_after + 1, self.total + 1):
            if number - request.resume_after > self.per_stream:
                if self.breaks:
                    raise self.breaks("Broken")
                return
            state = Job.STATE_SUCCEEDED if number == self.total else Job.STATE_RUNNING
            yield training_service_pb2.WatchTrainingJobResponse(sequence=number, training_job=Job(state=state))
            await self.hold.wait()


async def serve(*, data: Data | None = None, training: Training | None = None, port: int = 0) -> Server:
    server = Server(ServerConfig(port=port), name="test")
    if data:
        server.add(data_service_pb2_grpc.add_DataServiceServicer_to_server, data, "omnialign.v1.DataService")
    if training:
        add = training_service_pb2_grpc.add_TrainingServiceServicer_to_server
        server.add(add, training, "omnialign.v1.TrainingService")
    await server.start()
    return server


@pytest.fixture
async def data() -> Data:
    return Data()


@pytest.fixture
async def client(data: Data) -> AsyncIterator[AsyncClient]:
    server = await serve(data=data)
    async with AsyncClient(server.address) as connected:
        yield connected
    await server.stop(0)


async def test_unavailable_is_tried_again_with_the_same_request_id(client, data):
    data.failures = MAX_ATTEMPTS - 1
    assert (await client.get_dataset("a")).name == "a"
    assert data.calls == MAX_ATTEMPTS
    assert len({identity for identity, _ in data.seen}) == 1


async def test_retries_end_after_four_tries(client, data):
    data.failures = 100
    with pytest.raises(Unavailable) as caught:
        await client.get_dataset("a")
    assert caught.value.reason == "BACKEND_DOWN"
    assert data.calls == MAX_ATTEMPTS


async def test_a_call_that_must_not_run_twice_is_not_tried_again(client, data):
    data.failures = 1
    with pytest.raises(Unavailable):
        await client.delete_dataset("a")
    assert data.calls == 1


async def test_the_budget_stops_retries_when_everything_fails(client, data):
    data.failures = 1000
    for _ in range(4):
        with pytest.raises(Unavailable):
            await client.get_dataset("a")
    assert data.calls < 4 * MAX_ATTEMPTS / 2 + 1


async def test_retries_stay_within_the_deadline(data):
    data.failures = 1000
    server = await serve(data=data)
    async with AsyncClient(server.address, deadline_seconds=0.15) as client:
        with pytest.raises((Unavailable, DeadlineExceeded)):
            await asyncio.wait_for(client.get_dataset("a"), timeout=1)
    await server.stop(0)
    assert data.calls <= 2


async def test_a_dead_address_is_unavailable_and_named():
    async with AsyncClient("127.0.0.1:1") as client:
        with pytest.raises(Unavailable) as caught:
            await client.get_dataset("a")
    assert caught.value.metadata == {"address": "127.0.0.1:1"}


async def test_a_list_walks_all_pages(client):
    assert [dataset.name async for dataset in client.list_datasets()] == ["0", "1", "2", "3", "4"]


async def test_records_travel_in_small_messages(client, data):
    many = [record_pb2.Record(id=str(number)) for number in range(600)]
    large = [record_pb2.Record(id=f"l{n}", labels={"text": "x" * 400_000}) for n in range(5)]
    response = await client.append_records(DATASET, many + large)
    assert response.inserted_count == 605
    assert max(data.batches) <= 256
    assert max(data.batch_bytes) <= MAX_CHUNK_BYTES + 4096


async def test_a_list_of_records_is_sent_again_and_an_iterator_is_not(client, data):
    records = [record_pb2.Record(id="a")]
    data.failures = 1
    await client.append_records(DATASET, records)
    assert data.calls == 2
    data.failures = 3
    with pytest.raises(Unavailable):
        await client.append_records(DATASET, iter(records))
    assert data.calls == 3


async def test_what_the_callers_iterator_raises_reaches_the_caller(client, data):
    async def records() -> AsyncIterator[record_pb2.Record]:
        yield record_pb2.Record(id="a")
        raise KeyError("my own")

    with pytest.raises(KeyError):
        await client.append_records(DATASET, records())
    assert data.calls == 0


async def test_media_come_back_as_they_went(client, data):
    image = bytes(range(256)) * 2
    media = await client.upload_media(image, modality=content_pb2.MODALITY_IMAGE)
    assert media.sha256 == hashlib.sha256(image).hexdigest()
    assert await client.get_media(media.sha256) == image
    data.media[media.sha256] = b"other"
    with pytest.raises(DataLoss) as caught:
        await client.get_media(media.sha256)
    assert caught.value.reason == "MEDIA_CORRUPT"


async def test_a_stream_that_breaks_each_time_gives_its_messages_once_and_ends_with_the_error(client, data):
    data.failures = 1
    assert [record.id async for record in client.stream_records("fine")] == ["a"]
    assert data.calls == 2
    seen = []
    with pytest.raises(Unavailable):
        async for record in client.stream_records("breaks"):
            seen.append(record.id)
    assert seen == ["a"]
    assert data.calls <= 8


async def test_a_nested_call_inherits_deadline_and_request_id(data):
    server = await serve(data=data)
    async with AsyncClient(server.address, deadline_seconds=5) as outer, AsyncClient(server.address) as inner:
        data.onward = inner.get_dataset
        await outer.get_dataset("outer")
    await server.stop(0)
    (first_id, first_remaining), (second_id, second_remaining) = data.seen
    assert first_id == second_id
    assert first_remaining < 6
    assert second_remaining < 6  # gRPC rounds timeouts up a little; a call of its own would have 30 s


async def test_a_background_task_keeps_the_request_id_but_not_the_deadline(data):
    server = await serve(data=data)
    tasks: list[asyncio.Task[Any]] = []
    async with AsyncClient(server.address, deadline_seconds=5) as outer, AsyncClient(server.address) as inner:

        async def spawn(name: str) -> None:
            tasks.append(asyncio.create_task(inner.get_dataset(name)))

        data.onward = spawn
        await outer.get_dataset("outer")
        await asyncio.gather(*tasks)
    await server.stop(0)
    (first_id, _), (second_id, second_remaining) = data.seen
    assert first_id == second_id
    assert second_remaining > 25


@pytest.mark.parametrize("breaks", [Unavailable, None], ids=["broken", "ended early"])
async def test_a_watch_resumes_without_loss_or_repeats(breaks):
    training = Training(total=7, per_stream=3, breaks=breaks)
    server = await serve(training=training)
    async with AsyncClient(server.address) as client:
        events = [event.sequence async for event in client.watch_training_job(JOB)]
    await server.stop(0)
    assert events == [1, 2, 3, 4, 5, 6, 7]
    assert training.resumed == [0, 3, 6]


async def test_a_watch_resumed_after_the_last_event_ends_at_once():
    server = await serve(training=Training(total=4))
    async with AsyncClient(server.address) as client, asyncio.timeout(5):
        assert [event.sequence async for event in client.watch_training_job(JOB, resume_after=4)] == []
    await server.stop(0)


async def test_a_watch_survives_a_restart_of_the_server():
    training = Training(total=4)
    training.hold.clear()
    server = await serve(training=training)
    port = int(server.address.rpartition(":")[2])
    async with AsyncClient(server.address) as client:
        watch = client.watch_training_job(JOB, resume_after=1)
        assert (await anext(watch)).sequence == 2
        await asyncio.wait_for(server.stop(30), timeout=5)  # the open watch must not hold the drain up
        training.hold.set()
        server = await serve(training=training, port=port)
        assert [event.sequence async for event in watch] == [3, 4]
    await server.stop(0)


async def test_a_drain_that_begins_while_a_watch_is_written_to_is_not_held_up():
    class StoppedWhileItWrites(Training):
        async def WatchTrainingJob(self, request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
            # Before the write is over, which takes a turn of the loop at least.
            asyncio.get_running_loop().call_soon(lambda: stopping.set_result(asyncio.create_task(server.stop(30))))
            yield training_service_pb2.WatchTrainingJobResponse(sequence=1, training_job=Job())
            await asyncio.Event().wait()

    stopping = asyncio.get_running_loop().create_future()
    server = await serve(training=StoppedWhileItWrites())
    async with AsyncClient(server.address) as client:
        watch = client.watch_training_job(JOB, reconnect_seconds=0.1)
        assert (await anext(watch)).sequence == 1
        await asyncio.wait_for(await stopping, timeout=5)
        with pytest.raises(Unavailable):
            await anext(watch)


async def test_a_watch_gives_up_in_time():
    async with AsyncClient("127.0.0.1:1") as client:
        with pytest.raises(Unavailable):
            [_ async for _ in client.watch_training_job(JOB, reconnect_seconds=0.3)]


async def test_other_errors_end_a_watch_at_once():
    training = Training(per_stream=1, breaks=NotFound)
    server = await serve(training=training)
    async with AsyncClient(server.address) as client:
        with pytest.raises(NotFound):
            [_ async for _ in client.watch_training_job(JOB)]
    await server.stop(0)
    assert training.resumed == [0]


def test_the_sdk_loads_nothing_heavy():
    heavy = "numpy torch transformers sqlalchemy prometheus_client protovalidate services"
    program = f"import sys, omnialign.client; print([name for name in {heavy.split()!r} if name in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
