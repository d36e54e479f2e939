"""What surrounds a handler: errors, deadlines, cancellation, admission, validation, context."""

import asyncio
import errno
import logging
from collections import Counter

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from omnialign.client import AsyncClient
from omnialign.errors import Aborted, DeadlineExceeded, Internal, InvalidArgument, NotFound, ResourceExhausted
from omnialign.v1 import data_service_pb2 as pb
from omnialign.v1 import data_service_pb2_grpc, record_pb2
from services.runtime import request_stream


def details_of(failure: grpc.aio.AioRpcError) -> dict[str, object]:
    found = {}
    for detail in rpc_status.from_call(failure).details:
        for kind in (error_details_pb2.ErrorInfo, error_details_pb2.RetryInfo, error_details_pb2.BadRequest):
            message = kind()
            if detail.Unpack(message):
                found[kind.__name__] = message
    return found


async def test_domain_error_of_a_unary_call_arrives_typed(client, probe):
    probe.failures["gone"] = lambda: NotFound("No 'gone'", reason="DATASET_NOT_FOUND", metadata={"name": "gone"})
    with pytest.raises(NotFound) as caught:
        await client.get_dataset("gone")
    assert (caught.value.reason, caught.value.metadata) == ("DATASET_NOT_FOUND", {"name": "gone"})


async def test_error_in_the_middle_of_a_stream_carries_error_info_after_the_messages(server, probe):
    probe.failures["raced"] = lambda: Aborted("Lost", reason="RACE_LOST", metadata={"who": "me"})
    async with grpc.aio.insecure_channel(server.address) as channel:
        stub = data_service_pb2_grpc.DataServiceStub(channel)
        received = []
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async for message in stub.StreamRecords(pb.StreamRecordsRequest(source="raced")):
                received.append(message)
    info = details_of(caught.value)["ErrorInfo"]
    assert len(received) == 1
    assert (info.reason, info.domain, dict(info.metadata)) == ("RACE_LOST", "omnialign", {"who": "me"})


async def test_unexpected_exception_is_internal_and_tells_nothing_but_the_request_id(client, probe, caplog):
    probe.failures["bug"] = lambda: RuntimeError("password=hunter2")
    with pytest.raises(Internal) as caught:
        await client.get_dataset("bug")
    assert "hunter2" not in str(caught.value)
    request_id = probe.seen[-1]["request_id"]
    assert caught.value.metadata == {"request_id": request_id}
    assert caught.value.message.endswith(f"under the request id {request_id}"), "what is promised is printed"
    assert "hunter2" in caplog.text


async def test_full_disk_is_resource_exhausted(client, probe):
    probe.failures["full"] = lambda: OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(ResourceExhausted) as caught:
        await client.get_dataset("full")
    assert caught.value.reason == "STORAGE_FULL"


async def test_handler_sees_deadline_request_id_and_token(client, probe):
    await client.get_dataset("a")
    seen = probe.seen[-1]
    assert 25 < seen["remaining"] < 31
    assert len(seen["request_id"]) == 32
    assert seen["token"] == "secret"


async def test_stream_handler_sees_the_callers_request_id(server, probe):
    async with grpc.aio.insecure_channel(server.address) as channel:
        stub = data_service_pb2_grpc.DataServiceStub(channel)
        call = stub.StreamRecords(pb.StreamRecordsRequest(source="a"), metadata=(("x-request-id", "mine"),), timeout=9)
        assert [len(message.records) async for message in call] == [1]
    assert probe.seen[0]["request_id"] == "mine"
    assert probe.seen[0]["remaining"] < 10  # gRPC rounds timeouts up a little


async def test_deadline_ends_the_call_on_both_sides(server, probe):
    async with AsyncClient(server.address, deadline_seconds=0.2) as client:
        with pytest.raises(DeadlineExceeded):
            await client.get_dataset("wait")
    await asyncio.wait_for(probe.cancelled.wait(), timeout=5)


async def test_client_that_goes_away_cancels_a_unary_handler(client, probe):
    task = asyncio.create_task(client.get_dataset("wait"))
    await probe.entered.wait()
    task.cancel()
    await asyncio.wait_for(probe.cancelled.wait(), timeout=5)


async def test_client_that_leaves_a_stream_closes_the_handler(client, probe):
    stream = client.stream_records("wait")
    assert (await anext(stream)).id == "first"
    await stream.aclose()
    await asyncio.wait_for(probe.cancelled.wait(), timeout=5)
    assert probe.seen[-1] == {"closed": "wait"}


async def test_validation_names_every_field(server):
    record = record_pb2.Record(id="", subtask="x" * 33)
    record.responses.add().feedback.scores.add(dimension="", score=7)
    async with AsyncClient(server.address) as client:
        with pytest.raises(InvalidArgument) as caught:
            await client.append_records("projects/p/datasets/d", [record])
    assert caught.value.reason == "REQUEST_INVALID"
    assert [field for field, _ in caught.value.violations] == [
        "records[0].id",
        "records[0].subtask",
        "records[0].responses[0].feedback.scores[0].dimension",
        "records[0].responses[0].feedback.scores[0].score",
    ]


async def test_thousands_of_violations_still_arrive_as_invalid_argument(server):
    records = [record_pb2.Record(id="") for _ in range(250)]
    async with AsyncClient(server.address) as client:
        with pytest.raises(InvalidArgument) as caught:
            await client.append_records("projects/p/datasets/d", records)
    assert caught.value.reason == "REQUEST_INVALID"
    assert caught.value.violations


async def test_error_of_a_client_stream_arrives_although_messages_are_left(client):
    records = (record_pb2.Record(id=str(i), split="s" * 30) for i in range(20_000))
    with pytest.raises(NotFound) as caught:
        await client.append_records("missing", records)
    assert caught.value.metadata == {"dataset": "missing"}


async def test_error_of_a_client_stream_that_never_ends_arrives_too(server, monkeypatch):
    monkeypatch.setattr(request_stream, "MAX_DRAIN_SECONDS", 0.05)
    async with grpc.aio.insecure_channel(server.address) as channel:
        call = data_service_pb2_grpc.DataServiceStub(channel).AppendRecords(timeout=20)
        await call.write(pb.AppendRecordsRequest(dataset="missing"))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
    assert details_of(caught.value)["ErrorInfo"].reason == "DATASET_NOT_FOUND"


async def test_error_of_a_huge_client_stream_is_not_waited_for_to_its_end(server, monkeypatch):
    monkeypatch.setattr(request_stream, "MAX_DRAIN_BYTES", 1000)
    read = []

    async def messages():
        while True:
            read.append(1)
            yield pb.AppendRecordsRequest(dataset="missing", records=[record_pb2.Record(id="a" * 100)])

    async with grpc.aio.insecure_channel(server.address) as channel:
        call = data_service_pb2_grpc.DataServiceStub(channel).AppendRecords(messages(), timeout=20)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
    assert caught.value.code() is not grpc.StatusCode.DEADLINE_EXCEEDED
    assert len(read) > 1


async def test_excess_calls_are_refused_at_once_with_a_time_to_retry(start_server, probe):
    server = await start_server(max_concurrent_rpcs=1)
    async with AsyncClient(server.address) as client:
        waiting = asyncio.create_task(client.get_dataset("wait"))
        await probe.entered.wait()
        async with grpc.aio.insecure_channel(server.address) as channel:
            stub = data_service_pb2_grpc.DataServiceStub(channel)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.GetDataset(pb.GetDatasetRequest(name="a"))
        details = details_of(caught.value)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert details["ErrorInfo"].reason == "TOO_MANY_CALLS"
        assert details["RetryInfo"].retry_delay.ToSeconds() == 1
        probe.release.set()
        await waiting
        assert (await client.get_dataset("a")).name == "a"


async def test_every_ending_is_counted_and_nothing_stays_in_flight(client, server, probe):
    probe.failures["gone"] = lambda: NotFound("No 'gone'")
    await client.get_dataset("a")
    with pytest.raises(NotFound):
        await client.get_dataset("gone")
    task = asyncio.create_task(client.get_dataset("wait"))
    probe.entered.clear()
    await probe.entered.wait()
    task.cancel()
    await probe.cancelled.wait()
    [_ async for _ in client.stream_records("a")]

    def value(name, method, **labels):
        return server.registry.get_sample_value(
            name, {"service": "omnialign.v1.DataService", "method": method, **labels}
        )

    for code in ("OK", "NOT_FOUND", "CANCELLED"):
        assert value("omnialign_rpc_requests_total", "GetDataset", code=code) == 1
    assert value("omnialign_rpc_in_flight", "GetDataset") == 0
    assert value("omnialign_rpc_duration_seconds_count", "GetDataset") == 3
    assert value("omnialign_rpc_stream_messages_total", "StreamRecords", direction="sent") == 1


async def test_unknown_methods_are_one_series(client, server):
    async with grpc.aio.insecure_channel(server.address) as channel:
        for path in ("/a.B/C", "/d.E/F"):
            with pytest.raises(grpc.aio.AioRpcError):
                await channel.unary_unary(path)(b"")
    labels = {"service": "unknown", "method": "unknown", "code": "UNIMPLEMENTED"}
    assert server.registry.get_sample_value("omnialign_rpc_requests_total", labels) == 2


async def test_one_access_line_per_finished_call(client, probe, caplog):
    caplog.set_level("DEBUG", logger="services.runtime.access")
    probe.failures["gone"] = lambda: NotFound("No 'gone'", reason="DATASET_NOT_FOUND")
    await client.get_dataset("a")
    with pytest.raises(NotFound):
        await client.get_dataset("gone")
    lines: list[logging.LogRecord] = []
    async with asyncio.timeout(10):
        while len(lines) < 2:  # the line is written after the client has its answer
            await asyncio.sleep(0)
            lines = [record for record in caplog.records if record.name == "services.runtime.access"]
    assert [(line.code, line.reason, line.levelname) for line in lines] == [
        ("OK", "", "DEBUG"),
        ("NOT_FOUND", "DATASET_NOT_FOUND", "INFO"),
    ]
    assert [line.request_id for line in lines] == [seen["request_id"] for seen in probe.seen]


async def test_a_message_that_does_not_decode_is_an_invalid_argument(server):
    async with grpc.aio.insecure_channel(server.address) as channel:
        unary = channel.unary_unary("/omnialign.v1.DataService/GetDataset")
        upload = channel.stream_unary("/omnialign.v1.DataService/AppendRecords")
        for call in (unary(b"\xff\xff\xff", timeout=10), upload(iter([b"", b"\xff\xff\xff"]), timeout=10)):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert details_of(caught.value)["ErrorInfo"].reason == "REQUEST_UNDECODABLE"


async def test_silent_streams_are_refused_in_time_and_keep_nobody_out(start_server, monkeypatch):
    monkeypatch.setattr(request_stream, "MAX_SILENCE_SECONDS", 0.1)
    server = await start_server(max_concurrent_rpcs=2, first_message_seconds=0.3)
    server.set_serving()
    async with grpc.aio.insecure_channel(server.address) as channel, AsyncClient(server.address) as client:
        stub = data_service_pb2_grpc.DataServiceStub(channel)
        silent = [stub.AppendRecords(timeout=20) for _ in range(4)]
        assert (await client.get_dataset("a")).name == "a"
        codes = Counter([await call.code() for call in silent])
    assert codes[grpc.StatusCode.DEADLINE_EXCEEDED] >= 1
    assert set(codes) <= {grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.RESOURCE_EXHAUSTED}
