"""How many bytes a project stores, and the quota on them.

Objects are shared by digest, so that the store cannot tell whose they are. The database can: a holder is a dataset (the
media that its imports brought), a model version in the registry, an upload, or a project (media that were uploaded one
by one). What several holders of a project share counts once. Whatever ends a holder ends its share.

Two simultaneous calls may exceed the quota by what they bring.
"""

from collections.abc import Mapping

import sqlalchemy as sa
from prometheus_client import CollectorRegistry, Counter
from sqlalchemy import Connection

from omnialign.errors import ResourceExhausted
from services.data.store import HELD_OBJECTS, NAMES_PER_QUERY, now_us
from services.runtime.database import Database
from services.runtime.limits import Quotas


class UsageMetrics:
    """What projects store. The names are promises: dashboards and alerts use them."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.stored_bytes = Counter(
            "omnialign_data_stored_bytes_total",
            "Bytes of media, models and uploads that came to count for a project.",
            registry=registry,
        )
        self.refusals = Counter(
            "omnialign_data_quota_refusals_total",
            "Calls refused because a project has used up its quota of bytes.",
            registry=registry,
        )


class Usage:
    """The bytes of all projects. Objects are given as sizes in bytes by key, their digest or their upload's id."""

    def __init__(self, database: Database, *, quotas: Quotas, metrics: UsageMetrics) -> None:
        self._database, self._quotas, self._metrics = database, quotas, metrics

    async def check(self, parent: str, objects: Mapping[str, int]) -> None:
        """Raises ResourceExhausted (`QUOTA_EXCEEDED`) unless the objects fit. What the project has already does fit."""
        if not objects or not self._quotas.has_limit(parent, "bytes"):
            return
        held = await self._database.read(lambda connection: _held(connection, parent, list(objects)))
        if (adding := sum(size for key, size in objects.items() if key not in held)) == 0:
            return
        try:
            await self._quotas.check(parent, "bytes", lambda: self.used_bytes(parent), adding=adding)
        except ResourceExhausted:
            self._metrics.refusals.inc()
            raise

    async def hold(self, holder: str, objects: Mapping[str, int], *, parent: str, expire_us: int | None = None) -> None:
        """Counts objects for a holder, until it is released or the time comes; those that it holds already, once."""
        rows = [
            {"holder": holder, "key": key, "parent": parent, "size_bytes": size, "expire_us": expire_us}
            for key, size in sorted(objects.items())  # in one order, so that concurrent writers cannot deadlock
        ]
        insert = self._database.insert(HELD_OBJECTS).on_conflict_do_nothing().returning(HELD_OBJECTS.c.size_bytes)
        if rows:
            new = await self._database.write(lambda connection: connection.scalars(insert, rows).all())
            self._metrics.stored_bytes.inc(sum(new))

    async def release(self, holder: str) -> None:
        """Counts nothing more for a holder."""
        rows = HELD_OBJECTS.delete().where(HELD_OBJECTS.c.holder == holder)
        await self._database.write(lambda connection: connection.execute(rows))

    async def used_bytes(self, parent: str) -> int:
        """The bytes that count for a project."""
        table = HELD_OBJECTS
        sizes = sa.select(sa.func.max(table.c.size_bytes).label("size_bytes")).where(table.c.parent == parent, _lives())
        query = sa.select(sa.func.sum(sizes.group_by(table.c.key).subquery().c.size_bytes))
        return int(await self._database.read(lambda connection: connection.execute(query).scalar()) or 0)

    async def forget_expired(self) -> None:
        """Removes holders whose time has come."""
        expired = HELD_OBJECTS.delete().where(HELD_OBJECTS.c.expire_us <= now_us())
        await self._database.write(lambda connection: connection.execute(expired))


def _lives() -> sa.ColumnElement[bool]:
    return sa.or_(HELD_OBJECTS.c.expire_us.is_(None), HELD_OBJECTS.c.expire_us > now_us())


def _held(connection: Connection, parent: str, keys: list[str]) -> set[str]:
    """Those of the keys that the project holds."""
    found = set[str]()
    for start in range(0, len(keys), NAMES_PER_QUERY):
        query = sa.select(HELD_OBJECTS.c.key).where(HELD_OBJECTS.c.parent == parent, _lives())
        found.update(connection.scalars(query.where(HELD_OBJECTS.c.key.in_(keys[start : start + NAMES_PER_QUERY]))))
    return found
