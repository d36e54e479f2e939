"""A service that waits for what it needs: not ready, with the reason, and no crash."""

import asyncio

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client import CollectorRegistry

from omnialign.client import AsyncClient
from omnialign.errors import FailedPrecondition, Unavailable
from services.runtime.health import Readiness

SERVICE = "omnialign.v1.DataService"
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


class Database:
    """Away until told otherwise."""

    def __init__(self) -> None:
        self.there, self.attempts = False, 0

    async def connect(self) -> None:
        self.attempts += 1
        if not self.there:
            raise Unavailable("the database at db:5432 does not answer", reason="DATABASE_UNAVAILABLE")


async def test_calls_are_refused_with_the_reason_until_the_work_succeeds(start_server, probe):
    database = Database()
    server = await start_server(prepare=(SERVICE, database.connect))
    server.set_serving()
    async with AsyncClient(server.address) as client, grpc.aio.insecure_channel(server.address) as channel:
        with pytest.raises(Unavailable) as caught:
            await client.get_dataset("any")
        assert caught.value.reason == "NOT_READY"
        assert "the database at db:5432 does not answer" in caught.value.message
        assert caught.value.metadata["cause"] == "DATABASE_UNAVAILABLE"
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=SERVICE))
        assert (await watch.read()).status == NOT_SERVING
        database.there = True
        assert (await watch.read()).status == SERVING
        assert (await client.get_dataset("any")).name == "any"
    assert server.registry.get_sample_value("omnialign_ready", {"service": SERVICE}) == 1


async def test_a_service_that_is_told_not_to_serve_stays_so_when_its_work_succeeds(start_server):
    database = Database()
    database.there = True
    server = await start_server(prepare=(SERVICE, database.connect))
    answer = await server.health.Check(health_pb2.HealthCheckRequest(service=SERVICE), None)
    assert answer.status == NOT_SERVING


async def test_work_goes_on_where_it_failed_and_is_not_repeated():
    steps: list[str] = []
    database, ready = Database(), asyncio.Event()

    async def first() -> None:
        steps.append("first")

    async def last() -> None:
        steps.append("last")

    readiness = Readiness(CollectorRegistry(), ready=lambda _: ready.set())
    for work in (first, database.connect, last):
        readiness.add("a", work)
    await readiness.start()
    assert steps == ["first"]
    assert [problem.reason for problem in readiness.problems()] == ["DATABASE_UNAVAILABLE"]
    database.there = True
    await ready.wait()
    assert steps == ["first", "last"]
    readiness.require("a")
    await readiness.close()


async def test_one_service_that_is_not_ready_does_not_hold_up_another():
    async def refused() -> None:
        raise FailedPrecondition("there is no bucket 'b'; create it", reason="S3_BUCKET_MISSING")

    ready: list[str] = []
    readiness = Readiness(CollectorRegistry(), ready=ready.append)
    readiness.add("a", refused)
    readiness.add("b", lambda: asyncio.sleep(0))
    await readiness.start()
    assert ready == ["b"]
    readiness.require("b")
    readiness.require("a service that needs nothing")
    with pytest.raises(Unavailable, match="there is no bucket 'b'"):
        readiness.require("a")
    await readiness.close()
