"""Heartbeats of replicas, and taking over from those that died.

Every replica writes a heartbeat row. The workflow engine takes up a dead executor's workflows only when an executor of
the same id starts, or when someone calls its recovery: so the survivors watch the heartbeats and do that.
"""

import logging
import time
from typing import Any

import sqlalchemy as sa

from omnialign.errors import OmnialignError
from services.pipeline.config import PipelineConfig
from services.pipeline.schema import tables
from services.pipeline.workflow_engine import WorkflowEngine
from services.runtime.database import Database

NEVER = float("-inf")
GONE_SECONDS = 30 * 86400.0
"""A heartbeat older than this was set by a replica that signed off (`ReplicaStore.heartbeat` with `at_ms=0`)."""

logger = logging.getLogger(__name__)


class ReplicaStore:
    """The heartbeats of a kind's replicas."""

    def __init__(self, database: Database, kind_name: str) -> None:
        self._database = database
        self._table = tables(kind_name).replicas

    async def heartbeat(self, executor_id: str, *, at_ms: int | None = None) -> None:
        """Notes that a replica is alive; or, with `at_ms`, when it last was (milliseconds since 1970)."""
        when = self._now_ms() if at_ms is None else at_ms
        insert = self._database.insert(self._table).values(executor_id=executor_id, heartbeat_ms=when)
        upsert = insert.on_conflict_do_update(index_elements=["executor_id"], set_={"heartbeat_ms": when})
        await self._database.write(lambda connection: connection.execute(upsert))

    async def stale(self, *, seconds: float) -> list[str]:
        """Replicas whose heartbeat is older than `seconds`."""
        limit_ms = self._now_ms() - int(seconds * 1000)
        query = sa.select(self._table.c.executor_id).where(self._table.c.heartbeat_ms < limit_ms)
        return [row.executor_id for row in await self._database.all(query)]

    async def remove(self, executor_id: str) -> None:
        """Removes a replica whose work was taken over."""
        delete = sa.delete(self._table).where(self._table.c.executor_id == executor_id)
        await self._database.write(lambda connection: connection.execute(delete))

    def _now_ms(self) -> Any:
        """The present: on PostgreSQL by the server's clock, because those of replicas differ."""
        if self._database.is_sqlite:
            return time.time_ns() // 1_000_000
        return sa.cast(sa.extract("epoch", sa.func.clock_timestamp()) * 1000, sa.BigInteger)


class ReplicaMonitor:
    """Keeps this replica's heartbeat, and recovers the workflows of replicas whose heartbeat stopped."""

    def __init__(self, config: PipelineConfig, *, store: ReplicaStore, engine: WorkflowEngine) -> None:
        self._config, self._store, self._engine = config, store, engine
        self._alive_since = self._heartbeat_at = NEVER
        """Times on the monotonic clock: since when heartbeats succeeded without a gap, and the last one."""

    async def beat(self) -> None:
        """Writes a heartbeat."""
        await self._store.heartbeat(self._config.executor_id)
        # A gap of half the silence means that others may have looked dead in between, so the period starts anew.
        now = time.monotonic()
        if now - self._heartbeat_at > max(self._config.silence_seconds / 2, 2 * self._config.heartbeat_seconds):
            self._alive_since = now
        self._heartbeat_at = now

    async def sign_off(self) -> None:
        """Tells the others that this replica is gone, so that they take its work over at once."""
        if self._heartbeat_at == NEVER:
            return
        try:
            await self._store.heartbeat(self._config.executor_id, at_ms=0)
        except OmnialignError as error:
            logger.info("the others will notice only by silence that this replica is gone: %s", error)

    @property
    def is_current(self) -> bool:
        """Whether this replica's own heartbeat gets through. If not, the database is away, for the engine too."""
        return time.monotonic() - self._heartbeat_at <= 2 * self._config.heartbeat_seconds

    async def take_over(self) -> None:
        """Recovers the workflows of replicas that are gone."""
        for executor_id in await self._gone():
            logger.warning("replica %s is gone: its work is taken over", executor_id)
            await self._engine.recover(executor_id)
            await self._store.remove(executor_id)

    async def _gone(self) -> list[str]:
        # While the database was away nobody could write a heartbeat, so right after it every replica looks dead. Only a
        # replica whose own heartbeats have come through for the whole period may judge the others; a replica that has
        # not may still take over from those that signed off.
        seconds = self._config.silence_seconds
        if time.monotonic() - self._alive_since < seconds:
            seconds = GONE_SECONDS
        return [name for name in await self._store.stale(seconds=seconds) if name != self._config.executor_id]
