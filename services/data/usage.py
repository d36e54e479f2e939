"""How many bytes a project stores, and the quota on them.

Objects are shared by digest, so that the store cannot tell whose they are. The database can: a holder is a dataset (the
media that its records name), a model version in the registry, an upload, or a project (media that were uploaded and
that no dataset of it names yet). What several holders of a project share counts once. Whatever ends a holder ends its
share, and what has no holder at all is removed in the end (`garbage`).

Two simultaneous calls may exceed the quota by what they bring.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

import sqlalchemy as sa
from prometheus_client import CollectorRegistry, Counter
from sqlalchemy import Connection

from omnialign.content import contributed_parts_of, parts_of
from omnialign.errors import OmnialignError, ResourceExhausted
from omnialign.v1 import record_pb2
from services.data.garbage.condemned import pardon
from services.data.store import HELD_OBJECTS, is_held, now_us
from services.data.stored_records import DIGEST_HEAD
from services.runtime.database import Database, execute_many, is_among
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


class _Known(NamedTuple):
    """An object that somebody holds."""

    size_bytes: int
    is_held: bool
    """By the holder that is asked about."""
    is_held_by_project: bool


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

    async def unfit(self, parent: str, objects: Mapping[str, int]) -> dict[str, OmnialignError]:
        """Those of the objects that do not fit, with why; those that come first do."""
        with suppress(ResourceExhausted):
            await self.check(parent, objects)
            return {}
        unfit, fit = dict[str, OmnialignError](), dict[str, int]()
        for key, size in objects.items():
            try:
                await self.check(parent, fit | {key: size})
                fit[key] = size
            except ResourceExhausted as error:
                unfit[key] = error
        return unfit

    async def hold(self, holder: str, objects: Mapping[str, int], *, parent: str, expire_us: int | None = None) -> None:
        """Counts objects for a holder, until it is released or the time comes; those that it holds already, once.

        Raises OBJECT_LEAVES for an object that is being removed, as nobody held it.
        """
        if not objects:
            return
        keys = sorted(objects)  # in one order, so that concurrent writers cannot deadlock
        row = {"holder": holder, "parent": parent, "expire_us": expire_us, "held_us": now_us()}
        insert = self._database.insert(HELD_OBJECTS).on_conflict_do_nothing()
        again = {name: row[name] for name in ("expire_us", "held_us")}

        def hold(connection: Connection) -> int:
            pardon(connection, keys)
            known = _known(connection, keys, holder, parent)
            if new := [key for key in keys if key not in known or not known[key].is_held]:
                # What was measured once counts; a record may claim anything.
                sizes = {key: max(objects[key], known[key].size_bytes if key in known else 0) for key in new}
                execute_many(connection, insert, [{**row, "key": key, "size_bytes": sizes[key]} for key in new])
            if held := [key for key, one in known.items() if one.is_held]:
                connection.execute(HELD_OBJECTS.update().where(_of(connection, holder, held)).values(again))
            # What a dataset names, its project need not hold.
            if holder != parent and (spare := [key for key, one in known.items() if one.is_held_by_project]):
                connection.execute(HELD_OBJECTS.delete().where(_of(connection, parent, spare)))
            return sum(objects[key] for key in new)

        self._metrics.stored_bytes.inc(await self._database.write(hold))

    def held(self, keys: Iterable[str]) -> set[str]:
        """Those of the objects that anybody holds, or held until lately (blocking)."""
        wanted = list(keys)
        if not wanted:
            return set()
        column = HELD_OBJECTS.c.key
        return self._database.read_here(
            lambda connection: set(connection.scalars(sa.select(column).where(is_among(connection, column, wanted))))
        )

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
    """The media that records name, those too that responses were put together from: sizes in bytes, as the records
    claim them, by digest."""
    found = dict[str, int]()
    for record in records:
        if DIGEST_HEAD not in record.SerializeToString():
            continue
        parts = parts_of(record) + contributed_parts_of(record)
        found.update([(medium.sha256, medium.size_bytes) for part in parts if (medium := part.media).sha256])
    return found


def _of(connection: Connection, holder: str, keys: Sequence[str]) -> sa.ColumnElement[bool]:
    return sa.and_(HELD_OBJECTS.c.holder == holder, is_among(connection, HELD_OBJECTS.c.key, keys))


def _known(connection: Connection, keys: Sequence[str], holder: str, parent: str) -> dict[str, _Known]:
    """What is known of those of the objects that are held by whomever."""
    table = HELD_OBJECTS.c
    is_held, is_spare = (sa.func.max(sa.case((table.holder == name, 1), else_=0)) for name in (holder, parent))
    query = sa.select(table.key, sa.func.max(table.size_bytes), is_held, is_spare)
    rows = connection.execute(query.where(is_among(connection, table.key, keys)).group_by(table.key))
    return {key: _Known(size, bool(held), bool(spare)) for key, size, held, spare in rows}


def _held(connection: Connection, parent: str, keys: Sequence[str]) -> set[str]:
    """Those of the keys that the project holds."""
    is_its = sa.and_(HELD_OBJECTS.c.parent == parent, is_held())
    return set(
        connection.scalars(sa.select(HELD_OBJECTS.c.key).where(is_its, is_among(connection, HELD_OBJECTS.c.key, keys)))
    )
