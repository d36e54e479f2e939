"""When a replica takes the work of others over, and when it leaves them in peace."""

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from prometheus_client import CollectorRegistry

from services.alignment.config import AlignmentConfig
from services.alignment.metrics import Metrics
from services.alignment.store import Store
from services.alignment.supervisor import Supervisor
from services.runtime.database import Database

SILENCE_SECONDS = 0.3
LONG_AGO_MS = 3_600_000


class Engine:
    """Notes whose work was taken over."""

    def __init__(self) -> None:
        self.recovered: list[str] = []

    async def queued(self) -> list[int]:
        return []

    async def recover(self, executor_id: str) -> None:
        self.recovered.append(executor_id)


@pytest.fixture
async def parts(tmp_path: Path):
    address = dict.fromkeys(
        [f"{name}_address" for name in ("data", "refinement", "critique", "judge", "training")], "127.0.0.1:1"
    )
    config = AlignmentConfig(
        root=tmp_path, executor_id="me", silence_seconds=SILENCE_SECONDS, heartbeat_seconds=0.1, **address
    )
    store, engine = Store(Database(config.jobs_url)), Engine()
    await store.prepare()
    unused = cast("Any", SimpleNamespace())
    supervisor = Supervisor(
        config,
        store=store,
        engine=cast("Any", engine),
        pipeline=unused,
        stages=unused,
        patience=unused,
        metrics=Metrics(CollectorRegistry()),
    )
    yield supervisor, store, engine
    await store.close()


async def others(store: Store, *names: str, ago_ms: int) -> None:
    for name in names:
        await store.beat(name, at_ms=time.time_ns() // 1_000_000 - ago_ms)


async def test_after_a_time_without_the_database_nobodys_silence_is_taken_for_death(parts):
    """Then all heartbeats are old, those of replicas that live too."""
    supervisor, store, engine = parts
    await others(store, "a", "b", ago_ms=LONG_AGO_MS)
    await supervisor.arrive()
    await supervisor._take_care()
    assert engine.recovered == []


async def test_a_replica_that_was_heard_of_all_the_time_takes_over_from_the_silent_alone(parts):
    supervisor, store, engine = parts
    await others(store, "dead", ago_ms=LONG_AGO_MS)
    begun = time.monotonic()
    while time.monotonic() - begun < 2 * SILENCE_SECONDS:
        await others(store, "alive", ago_ms=0)
        await supervisor._beat()
        await supervisor._take_care()
    assert engine.recovered == ["dead"]
    assert await store.silent(seconds=-1000) == ["alive", "me"]


async def test_a_replica_that_took_its_leave_is_replaced_at_once(parts):
    supervisor, store, engine = parts
    await supervisor.arrive()
    leaving = Store(store._database)
    await leaving.beat("left", at_ms=0)
    await supervisor._take_care()
    assert engine.recovered == ["left"]


async def test_a_replica_that_leaves_says_so_and_one_that_never_came_does_not(parts):
    supervisor, store, _ = parts
    await supervisor.leave()
    assert await store.silent(seconds=-1000) == []
    await supervisor.arrive()
    await supervisor.leave()
    assert await store.silent(seconds=40 * 365 * 86400) == ["me"]


async def test_while_its_own_heartbeat_fails_a_replica_judges_nobody(parts):
    supervisor, store, engine = parts
    await supervisor.arrive()
    await store.beat("left", at_ms=0)
    supervisor._beaten_at -= 60
    await supervisor._take_care()
    assert engine.recovered == []
