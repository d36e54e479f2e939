"""Traces over real servers, sent to a real OTLP collector."""

import asyncio
import contextlib
import json
import logging
import subprocess
import sys
from collections.abc import AsyncIterator

import grpc
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from omnialign.client import AsyncClient
from omnialign.client.context import trace_headers
from omnialign.errors import NotFound, OmnialignError
from omnialign.v1 import data_service_pb2, data_service_pb2_grpc, dataset_pb2
from services.runtime import logs, tracing
from services.runtime.config import ConfigError, ServerConfig, load
from services.runtime.server import Server
from tests.observability.collector import Collector, attributes, running_collector

FULL_NAME = "omnialign.v1.DataService"


class Relay(data_service_pb2_grpc.DataServiceServicer):
    """Asks the next server the same; the last one answers, and logs."""

    def __init__(self, address: str) -> None:
        self._address = address

    async def GetDataset(self, request, context):  # noqa: N802
        if self._address:
            async with AsyncClient(self._address) as client:
                return await client.get_dataset(request.name)
        if request.name.endswith("absent"):
            raise NotFound("It is not there", reason="DATASET_NOT_FOUND")
        if request.name.endswith("bug"):
            raise RuntimeError("a bug")
        logging.getLogger("services.test").warning("answering")
        return dataset_pb2.Dataset(name=request.name)

    async def StreamRecords(self, request, context):  # noqa: N802
        await asyncio.sleep(0)
        yield data_service_pb2.StreamRecordsResponse()


@contextlib.asynccontextmanager
async def serving(address: str = "") -> AsyncIterator[Server]:
    server = Server(ServerConfig(reflection=False), name="relay")
    server.add(data_service_pb2_grpc.add_DataServiceServicer_to_server, Relay(address), FULL_NAME)
    await server.start()
    server.set_serving()
    try:
        yield server
    finally:
        await server.stop(0)


@pytest.fixture
async def collector() -> AsyncIterator[Collector]:
    async with running_collector() as made:
        yield made


@pytest.fixture
async def tracer(collector) -> AsyncIterator[None]:
    config = tracing.TracingConfig(endpoint=f"http://{collector.address}")
    exporting = tracing.exported("relay", config)
    exporting.__enter__()
    try:
        yield
    finally:  # in a thread: it waits for the collector, which lives on this loop
        await asyncio.to_thread(exporting.__exit__, None, None, None)


async def test_one_trace_goes_from_a_unit_of_work_through_two_services(collector, tracer):
    async with serving() as last, serving(last.address) as first, AsyncClient(first.address) as client:
        with tracing.span("step sample", is_root=True, job_uid="u-1", stage="sample"):
            await client.get_dataset("a")
        await collector.until(lambda c: len(c.spans) == 3)
    (spans,) = collector.traces().values()
    work, outer, inner = sorted(spans, key=lambda span: span.start_time_unix_nano)
    assert [span.name for span in (work, outer, inner)] == ["step sample", *2 * [f"{FULL_NAME}/GetDataset"]]
    assert (work.parent_span_id, outer.parent_span_id, inner.parent_span_id) == (b"", work.span_id, outer.span_id)
    assert (outer.kind, inner.kind) == (Span.SPAN_KIND_SERVER, Span.SPAN_KIND_SERVER)
    assert attributes(work) == {"omnialign.job_uid": "u-1", "omnialign.stage": "sample"}
    assert attributes(inner).items() >= {
        ("rpc.system", "grpc"),
        ("rpc.service", FULL_NAME),
        ("rpc.method", "GetDataset"),
        ("rpc.grpc.status_code", 0),
    }
    assert attributes(inner)["omnialign.request_id"] == attributes(outer)["omnialign.request_id"]
    assert collector.resources[0]["service.name"] == "relay"


async def test_the_callers_own_trace_goes_on(collector, tracer):
    parent = (("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),)
    async with serving() as server, grpc.aio.insecure_channel(server.address) as channel:
        stub = data_service_pb2_grpc.DataServiceStub(channel)
        await stub.GetDataset(data_service_pb2.GetDatasetRequest(name="projects/p/datasets/d"), metadata=parent)
        await collector.until(lambda c: bool(c.spans))
    assert collector.spans[0].trace_id.hex() == "0af7651916cd43dd8448eb211c80319c"
    assert collector.spans[0].parent_span_id.hex() == "b7ad6b7169203331"


@pytest.mark.parametrize("broken", ["", "00-zz-zz-01", "x" * 300])
async def test_a_broken_parent_begins_a_new_trace(collector, tracer, broken):
    async with serving() as server, grpc.aio.insecure_channel(server.address) as channel:
        stub = data_service_pb2_grpc.DataServiceStub(channel)
        request = data_service_pb2.GetDatasetRequest(name="projects/p/datasets/d")
        await stub.GetDataset(request, metadata=(("traceparent", broken),))
        await collector.until(lambda c: bool(c.spans))
    assert collector.spans[0].parent_span_id == b""


@pytest.mark.parametrize(
    ("name", "code", "reason", "status"),
    [("absent", 5, "DATASET_NOT_FOUND", Status.STATUS_CODE_UNSET), ("bug", 13, "INTERNAL", Status.STATUS_CODE_ERROR)],
)
async def test_a_failed_call_says_so_and_is_a_failed_span_when_it_is_the_servers_fault(
    collector, tracer, name, code, reason, status
):
    async with serving() as server, AsyncClient(server.address) as client:
        with pytest.raises(OmnialignError):
            await client.get_dataset(name)
        await collector.until(lambda c: bool(c.spans))
    (span,) = collector.spans
    assert attributes(span)["rpc.grpc.status_code"] == code
    assert attributes(span)["error.type"] == reason
    assert span.status.code == status


async def test_a_stream_is_one_span(collector, tracer):
    async with serving() as server, AsyncClient(server.address) as client:
        assert [record async for record in client.stream_records("projects/p/datasets/d")] == []
        await collector.until(lambda c: bool(c.spans))
    assert [span.name for span in collector.spans] == [f"{FULL_NAME}/StreamRecords"]


async def test_log_lines_carry_the_trace(collector, tracer):
    line = logging.makeLogRecord({"msg": "hello"})
    with tracing.span("work", is_root=True):
        trace_id = json.loads(logs.JsonFormatter().format(line))["trace_id"]
    await collector.until(lambda c: bool(c.spans))
    assert collector.spans[0].trace_id.hex() == trace_id
    assert "trace_id" not in json.loads(logs.JsonFormatter().format(line))


async def test_work_that_fails_is_a_failed_span(collector, tracer):
    with pytest.raises(ValueError, match="so"), tracing.span("work"):
        raise ValueError("so")
    await collector.until(lambda c: bool(c.spans))
    assert collector.spans[0].status.code == Status.STATUS_CODE_ERROR


async def test_without_an_endpoint_nothing_is_traced_and_no_header_is_sent():
    with tracing.exported("relay", tracing.TracingConfig()), tracing.span("work"):
        assert not tracing.is_on()
        assert trace_headers() == ()
        assert tracing.trace_id() == ""


async def test_a_collector_that_is_away_holds_no_call_up():
    with tracing.exported("relay", tracing.TracingConfig(endpoint="http://127.0.0.1:9")):
        async with serving() as server, AsyncClient(server.address, deadline_seconds=5) as client:
            assert (await client.get_dataset("a")).name.endswith("a")


def test_a_process_that_does_not_trace_does_not_load_opentelemetry():
    words = "import sys, services.runtime.server; sys.exit(any('opentelemetry.sdk' in name for name in sys.modules))"
    subprocess.run([sys.executable, "-c", words], check=True, timeout=60)


@pytest.mark.parametrize(
    ("variable", "value"),
    [("ENDPOINT", "collector:4317"), ("SAMPLE_RATIO", "2"), ("CA_FILE", "/absent"), ("ENDPIONT", "http://c:4317")],
)
def test_wrong_settings_are_named(variable, value):
    with pytest.raises(ConfigError, match=variable):
        load(tracing.TracingConfig, {f"OMNIALIGN_TRACING_{variable}": value})
