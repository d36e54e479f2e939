"""The gateway between a real client and a real server: calls pass unchanged, in all four kinds, and so do errors."""

import asyncio
import contextlib

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from omnialign.client import AsyncClient
from omnialign.errors import InvalidArgument, NotFound, Unavailable
from omnialign.v1 import content_pb2, record_pb2
from services.data import __main__ as data
from services.data.config import DataConfig
from services.gateway import __main__ as gateway
from services.gateway.__main__ import GatewayConfig
from services.gateway.servicer import Proxy
from services.runtime.auth.policy import POLICY
from services.runtime.config import ServerConfig
from services.runtime.server import Server

NOWHERE = "127.0.0.1:1"
PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108020000009077"
    "53de0000000c49444154789c63f8ffff3f0005fe02fe0def46b80000000049454e44ae426082"
)


@pytest.fixture
async def behind(tmp_path):
    """A real data service."""
    server = Server(ServerConfig(), name="data")
    async with data.wire(server, DataConfig(root=tmp_path)):
        await server.start()
        server.set_serving()
        yield server
        await server.stop(0)


@pytest.fixture
async def front(behind):
    """A gateway that knows where the data service is, and that nobody else is there."""
    names = ("refinement", "critique", "judge", "training", "alignment", "evaluation", "annotation")
    config = GatewayConfig(data_address=behind.address, **{f"{name}_address": NOWHERE for name in names})
    server = Server(ServerConfig(), name="gateway")
    async with gateway.wire(server, config):
        await server.start()
        server.set_serving()
        yield server
        await server.stop(0)


@pytest.fixture
async def client(front):
    async with AsyncClient(front.address) as connected:
        yield connected


async def test_calls_of_every_kind_pass(client):
    dataset = await client.create_dataset("poems")
    record = record_pb2.Record(id="r1", subtask="t2t", split="train")
    await client.append_records(dataset.name, [record])
    assert [found.id async for found in client.stream_records(dataset.name)] == ["r1"]
    media = await client.upload_media(PIXEL, modality=content_pb2.MODALITY_IMAGE)
    assert await client.get_media(media.sha256) == PIXEL


async def test_an_error_passes_with_its_reason_and_metadata(client):
    with pytest.raises(NotFound) as caught:
        await client.get_dataset("projects/default/datasets/absent")
    assert caught.value.reason == "DATASET_NOT_FOUND"
    assert caught.value.metadata["name"] == "projects/default/datasets/absent"


async def test_a_message_that_breaks_the_rules_is_refused_by_the_service_behind(client):
    with pytest.raises(InvalidArgument) as caught:
        await client.create_dataset("Not An Id")
    assert caught.value.violations[0][0] == "dataset_id"


async def test_a_refused_upload_ends_with_its_error_and_not_with_a_broken_stream(client):
    with pytest.raises(InvalidArgument) as caught:
        await client.upload_media(b"no picture" * 200_000, modality=content_pb2.MODALITY_IMAGE)
    assert caught.value.reason.startswith("MEDIA_")


async def test_a_service_that_is_away_is_unavailable(client):
    with pytest.raises(Unavailable):
        await client.get_training_job("projects/default/trainingJobs/absent")


async def test_the_deadline_reaches_the_service_behind(behind, front):
    slow = asyncio.Event()

    async def never(request, context):
        slow.set()
        await asyncio.Event().wait()

    handler = grpc.unary_unary_rpc_method_handler(never)
    methods = {"Slow": handler}
    behind._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("omnialign.v1.Slow", methods),))
    async with grpc.aio.insecure_channel(behind.address) as channel:
        proxy = Proxy({"/omnialign.v1.Slow/Slow": channel})
        front._server.add_generic_rpc_handlers((proxy,))
        async with grpc.aio.insecure_channel(front.address) as caller:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await caller.unary_unary("/omnialign.v1.Slow/Slow")(b"", timeout=0.5)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert slow.is_set()


@pytest.mark.parametrize("path", ["/omnialign.v1.Strange/Get", "/omnialign.v1.DataService/Strange"])
async def test_a_method_that_is_not_in_the_contract_is_unimplemented(front, path):
    async with grpc.aio.insecure_channel(front.address) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary(path)(b"", timeout=5)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_the_gateway_shows_its_readiness_in_health_checks_and_metrics(front):
    async with grpc.aio.insecure_channel(front.address) as channel:
        answer = await health_pb2_grpc.HealthStub(channel).Check(
            health_pb2.HealthCheckRequest(service=gateway.FULL_NAME), timeout=5
        )
    assert answer.status == health_pb2.HealthCheckResponse.SERVING
    assert front.registry.get_sample_value("omnialign_ready", {"service": gateway.FULL_NAME}) == 1


def test_every_method_of_the_contract_has_a_route():
    routes = GatewayConfig(*["a:1"] * 8).routes()
    assert set(routes) == set(POLICY)


async def test_a_call_without_a_token_is_refused_before_its_first_message():
    config = GatewayConfig(*[NOWHERE] * 8, require_token=True)
    server = Server(ServerConfig(), name="gateway")
    async with gateway.wire(server, config):
        await server.start()
        async with grpc.aio.insecure_channel(server.address) as channel:
            silent = channel.stream_stream("/omnialign.v1.DataService/GetDataset")(timeout=10)
            assert await silent.code() is grpc.StatusCode.UNAUTHENTICATED
        async with AsyncClient(server.address, token="any") as client:
            with pytest.raises(Unavailable):
                await client.get_dataset("projects/default/datasets/d")
        await server.stop(0)


async def test_connections_beyond_the_bound_are_closed_and_the_others_go_on():
    server = Server(ServerConfig(max_connections=2), name="gateway")
    async with gateway.wire(server, GatewayConfig(*[NOWHERE] * 8)):
        await server.start()
        options = (("grpc.use_local_subchannel_pool", 1),)  # else channels of one process share a connection
        request = health_pb2.HealthCheckRequest(service=gateway.FULL_NAME)
        async with contextlib.AsyncExitStack() as stack:
            channels = [
                await stack.enter_async_context(grpc.aio.insecure_channel(server.address, options=options))
                for _ in range(3)
            ]
            stubs = [health_pb2_grpc.HealthStub(channel) for channel in channels]
            for stub in stubs[:2]:
                await stub.Check(request, timeout=5)
            with pytest.raises(grpc.aio.AioRpcError):
                await stubs[2].Check(request, timeout=2)
            await stubs[0].Check(request, timeout=5)
        await server.stop(0)
