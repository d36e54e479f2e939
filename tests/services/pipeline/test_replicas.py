"""When a replica takes the work of others over, and when it leaves them in peace."""

import dataclasses
import time
from pathlib import Path
from typing import Any, cast

import pytest

from services.alignment.__main__ import AlignmentConfig
from services.alignment.job import ALIGNMENT
from services.pipeline.config import PipelineConfig
from services.pipeline.replicas import ReplicaMonitor, ReplicaStore
from services.runtime.database import Database

SILENCE_SECONDS = 0.3
LONG_AGO_MS = 3_600_000


class Engine:
    """Notes whose work was taken over."""

    def __init__(self) -> None:
        self.recovered: list[str] = []

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
    database, engine = Database(config.jobs_url), Engine()
    await ALIGNMENT.migrations.prepare(database)
    store = ReplicaStore(database, ALIGNMENT.name)
    yield ReplicaMonitor(config, store=store, engine=cast("Any", engine)), store, engine
    await database.close()


async def others(store: ReplicaStore, *names: str, ago_ms: int) -> None:
    for name in names:
        await store.heartbeat(name, at_ms=time.time_ns() // 1_000_000 - ago_ms)


async def test_after_a_time_without_the_database_nobodys_silence_is_taken_for_death(parts):
    """Then all heartbeats are old, those of replicas that live too."""
    monitor, store, engine = parts
    await others(store, "a", "b", ago_ms=LONG_AGO_MS)
    await monitor.beat()
    await monitor.take_over()
    assert engine.recovered == []


async def test_a_replica_that_was_heard_of_all_the_time_takes_over_from_the_silent_alone(parts):
    monitor, store, engine = parts
    await others(store, "dead", ago_ms=LONG_AGO_MS)
    begun = time.monotonic()
    while time.monotonic() - begun < 2 * SILENCE_SECONDS:
        await others(store, "alive", ago_ms=0)
        await monitor.beat()
        await monitor.take_over()
    assert engine.recovered == ["dead"]
    assert await store.stale(seconds=-1000) == ["alive", "me"]


async def test_a_replica_that_took_its_leave_is_replaced_at_once(parts):
    monitor, store, engine = parts
    await monitor.beat()
    await store.heartbeat("left", at_ms=0)
    await monitor.take_over()
    assert engine.recovered == ["left"]


async def test_a_replica_that_leaves_says_so_and_one_that_never_came_does_not(parts):
    monitor, store, _ = parts
    await monitor.sign_off()
    assert await store.stale(seconds=-1000) == []
    await monitor.beat()
    await monitor.sign_off()
    assert await store.stale(seconds=40 * 365 * 86400) == ["me"]


async def test_a_replica_whose_own_heartbeat_fails_is_not_current(parts):
    """A supervisor then leaves its rounds out: the database is away, and the engine would wait for it."""
    monitor, _, _ = parts
    assert not monitor.is_current
    await monitor.beat()
    assert monitor.is_current
    monitor._heartbeat_at -= 60
    assert not monitor.is_current


def test_the_work_of_a_replica_that_dies_is_taken_over_within_15_seconds():
    defaults = {field.name: field.default for field in dataclasses.fields(PipelineConfig)}
    silence, heartbeat = defaults["silence_seconds"], defaults["heartbeat_seconds"]
    assert silence + 2 * heartbeat <= 15  # the last heartbeat was just written; a survivor has just looked
    assert silence >= 4 * heartbeat  # and a few late heartbeats are no death
