"""A service that waits for what it needs: not ready, with the reason, and no crash."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import grpc
import pytest
import sqlalchemy as sa
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client import CollectorRegistry

from omnialign.client import AsyncClient
from omnialign.errors import FailedPrecondition, Unavailable
from services.data.store import MIGRATIONS
from services.runtime import health
from services.runtime.config import ServerConfig
from services.runtime.database import Database as MetadataDatabase
from services.runtime.health import Readiness
from services.runtime.server import Server

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


class Watcher:
    """What the health of the service is, as a client sees it, and how it changes."""

    def __init__(self, server: Server) -> None:
        self._channel = grpc.aio.insecure_channel(server.address)
        request = health_pb2.HealthCheckRequest(service=SERVICE)
        self._watch = health_pb2_grpc.HealthStub(self._channel).Watch(request)

    async def until(self, status: int) -> None:
        async with asyncio.timeout(20):
            while (await self._watch.read()).status != status:
                pass

    async def close(self) -> None:
        await self._channel.close()


async def test_a_service_is_not_ready_while_what_it_needs_is_away_and_answers_all_the_same(start_server, monkeypatch):
    monkeypatch.setattr(health, "CHECK_SECONDS", 0.01)
    database = Database()
    database.there = True
    server = await start_server(prepare=(SERVICE, database.connect), check=database.connect)
    server.set_serving()
    watcher = Watcher(server)
    await watcher.until(SERVING)
    database.there = False
    await watcher.until(NOT_SERVING)
    assert server.registry.get_sample_value("omnialign_ready", {"service": SERVICE}) == 0
    assert [problem.reason for problem in server.readiness.problems()] == ["DATABASE_UNAVAILABLE"]
    async with AsyncClient(server.address) as client:
        assert (await client.get_dataset("any")).name == "any"
    database.there = True
    await watcher.until(SERVING)
    assert server.registry.get_sample_value("omnialign_ready", {"service": SERVICE}) == 1
    await watcher.close()


async def test_one_check_that_fails_changes_nothing_and_one_that_hangs_is_made_once(monkeypatch):
    monkeypatch.setattr(health, "CHECK_SECONDS", 0.001)
    monkeypatch.setattr(health, "LATE_SECONDS", 0.01)
    answers = iter([True, False, True, False, True])
    changes: list[str] = []
    hangs, lost = asyncio.Event(), asyncio.Event()
    num_hanging = 0

    async def check() -> None:
        nonlocal num_hanging
        answer = next(answers, None)
        if answer is None:
            num_hanging += 1
            await hangs.wait()
        elif not answer:
            raise Unavailable("away")

    def note_lost(name: str) -> None:
        changes.append(f"lost {name}")
        lost.set()

    readiness = Readiness(CollectorRegistry(), ready=changes.append, lost=note_lost)
    readiness.add("a", lambda: asyncio.sleep(0), check=check)
    await readiness.start()
    await asyncio.wait_for(lost.wait(), timeout=20)
    assert changes == ["a", "lost a"]
    assert num_hanging == 1
    assert [problem.reason for problem in readiness.problems()] == ["CHECK_LATE"]
    await readiness.close()


@contextlib.asynccontextmanager
async def service_on(url: str, *, migrate: bool = False) -> AsyncIterator[tuple[MetadataDatabase, Watcher]]:
    """A server whose only service keeps its tables in a database, and who watches it."""
    database, server = MetadataDatabase(url, migrate=migrate), Server(ServerConfig(), name="data")
    await database.write(MIGRATIONS.upgrade)
    server.add(lambda servicer, grpc_server: None, object(), SERVICE)
    server.prepare(SERVICE, lambda: MIGRATIONS.prepare(database), check=lambda: MIGRATIONS.look(database))
    await server.start()
    server.set_serving()
    watcher = Watcher(server)
    await watcher.until(SERVING)
    yield database, watcher
    await watcher.close()
    await server.stop(0)
    await database.close()


async def lose_tables(database: MetadataDatabase) -> None:
    def lose(connection: sa.Connection) -> None:
        connection.execute(sa.text("DROP SCHEMA public CASCADE"))
        connection.execute(sa.text("CREATE SCHEMA public"))

    await database.write(lose)


async def test_readiness_follows_a_real_database(own_postgres, monkeypatch):
    monkeypatch.setattr(health, "CHECK_SECONDS", 0.05)
    monkeypatch.setattr(health, "LATE_SECONDS", 0.5)
    async with service_on(own_postgres.url()) as (_, watcher):
        own_postgres.pause()
        await watcher.until(NOT_SERVING)
        own_postgres.go_on()
        await watcher.until(SERVING)


async def test_lost_tables_are_said_once_with_what_to_do(postgres_url, monkeypatch, caplog):
    monkeypatch.setattr(health, "CHECK_SECONDS", 0.05)
    async with service_on(postgres_url) as (database, watcher):
        await lose_tables(database)
        await watcher.until(NOT_SERVING)
        with pytest.raises(Unavailable, match=r"run 'python -m services\.migrate'") as caught:
            await database.all(sa.select(sa.text("*")).select_from(sa.table("datasets")))
        assert caught.value.reason == "SCHEMA_MISSING"
        await database.write(MIGRATIONS.upgrade)
        await watcher.until(SERVING)
    assert [r.reason for r in caplog.records if r.levelname == "WARNING"] == ["SCHEMA_MISSING"]


async def test_a_service_that_may_makes_lost_tables_again(postgres_url):
    async with service_on(postgres_url, migrate=True) as (database, _):
        await lose_tables(database)
        await MIGRATIONS.look(database)
        assert await database.read(MIGRATIONS.current) == MIGRATIONS.head
