"""How many bytes a project stores, and the quota on them.

Objects are shared by digest, so that the store cannot tell whose they are. The database can: a holder is a dataset (the
media that its records name), a model version in the registry, an upload, or a project (media that were uploaded and
that no dataset of it names yet). What several holders of a project share counts once. Whatever ends a holder ends its
share, and what has no holder at all is removed in the end (`garbage`).

Two simultaneous calls may exceed the quota by what they bring.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import sqlalchemy as sa
from prometheus_client import CollectorRegistry, Counter
from sqlalchemy import Connection

from omnialign.content import contents_of, media_of
from omnialign.errors import ResourceExhausted
from omnialign.v1 import content_pb2, record_pb2
from services.data.garbage.condemned import pardon
from services.data.store import HELD_OBJECTS, NAMES_PER_QUERY, is_held, now_us
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
        """Counts objects for a holder, until it is released or the time comes; those that it holds already, once.

        Raises OBJECT_LEAVES for an object that is being removed, as nobody held it.
        """
        if not objects:
            return
        keys = sorted(objects)  # in one order, so that concurrent writers cannot deadlock
        row = {"holder": holder, "parent": parent, "expire_us": expire_us, "held_us": now_us()}
        insert = self._database.insert(HELD_OBJECTS).on_conflict_do_nothing().returning(HELD_OBJECTS.c.key)

        def hold(connection: Connection) -> int:
            pardon(connection, keys)
            sizes = _sizes(connection, keys)  # what was measured once; a record may claim anything
            rows = [{**row, "key": key, "size_bytes": max(objects[key], sizes.get(key, 0))} for key in keys]
            new = set(connection.scalars(insert, rows))
            again = {name: row[name] for name in ("expire_us", "held_us")}
            for some in _parts([key for key in keys if key not in new]):
                connection.execute(HELD_OBJECTS.update().where(_of(holder, some)).values(again))
            for some in _parts(keys if holder != parent else []):  # what a dataset names, its project need not hold
                connection.execute(HELD_OBJECTS.delete().where(_of(parent, some)))
            return sum(objects[key] for key in new)

        self._metrics.stored_bytes.inc(await self._database.write(hold))

    async def release(self, holder: str) -> None:
        """Counts nothing more for a holder."""
        rows = HELD_OBJECTS.delete().where(HELD_OBJECTS.c.holder == holder)
        await self._database.write(lambda connection: connection.execute(rows))

    async def used_bytes(self, parent: str) -> int:
        """The bytes that count for a project."""
        table = HELD_OBJECTS
        sizes = sa.select(sa.func.max(table.c.size_bytes).label("size_bytes")).where(
            table.c.parent == parent, is_held()
        )
        query = sa.select(sa.func.sum(sizes.group_by(table.c.key).subquery().c.size_bytes))
        return int(await self._database.read(lambda connection: connection.execute(query).scalar()) or 0)

    async def forget_expired(self) -> None:
        """Removes holders whose time has come."""
        expired = HELD_OBJECTS.delete().where(HELD_OBJECTS.c.expire_us <= now_us())
        await self._database.write(lambda connection: connection.execute(expired))


def named_media(records: Iterable[record_pb2.Record]) -> dict[str, int]:
    """The media that records name: sizes in bytes, as the records claim them, by digest."""
    found = dict[str, int]()
    for record in records:
        found.update((medium.sha256, medium.size_bytes) for medium in media_of(_contents(record)))
    return found


def _contents(record: record_pb2.Record) -> Iterator[content_pb2.Content]:
    """All messages in a record, and those that its responses were put together from."""
    yield from contents_of(record)
    for response in record.responses:
        yield from (contribution.content for contribution in response.made_of)


def _of(holder: str, keys: Sequence[str]) -> sa.ColumnElement[bool]:
    return sa.and_(HELD_OBJECTS.c.holder == holder, HELD_OBJECTS.c.key.in_(keys))


def _sizes(connection: Connection, keys: Sequence[str]) -> dict[str, int]:
    """The sizes of those of the objects that are held by whomever."""
    found, table = dict[str, int](), HELD_OBJECTS.c
    for some in _parts(keys):
        query = sa.select(table.key, sa.func.max(table.size_bytes)).where(table.key.in_(some)).group_by(table.key)
        found.update((key, size) for key, size in connection.execute(query))
    return found


def _parts(keys: Sequence[str]) -> Iterator[Sequence[str]]:
    return (keys[start : start + NAMES_PER_QUERY] for start in range(0, len(keys), NAMES_PER_QUERY))


def _held(connection: Connection, parent: str, keys: list[str]) -> set[str]:
    """Those of the keys that the project holds."""
    found = set[str]()
    for some in _parts(keys):
        query = sa.select(HELD_OBJECTS.c.key).where(HELD_OBJECTS.c.parent == parent, is_held())
        found.update(connection.scalars(query.where(HELD_OBJECTS.c.key.in_(some))))
    return found
