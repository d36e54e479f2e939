"""The datasets and models that jobs and campaigns use: these are not deleted meanwhile, unless that is forced.

The service that accepts a job says first what the job uses, and says so again until the job has ended. A use lasts only
for a time, so that one whose job was never accepted, or whose service is gone for good, ends by itself.

Whoever begins a use and whoever deletes what is used lock the same row first, of the dataset or of the model version:
either the deletion finds the use, or the use does not find what is deleted.
"""

from collections import defaultdict
from collections.abc import Collection, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from omnialign.errors import FailedPrecondition, NotFound
from omnialign.names import DATASET, DATASET_VERSION, MODEL, MODEL_VERSION, NEWEST, matches, parse, unversioned
from services.data.errors import not_found, version_not_found
from services.data.store import DATASET_VERSIONS, DATASETS, MODEL_VERSIONS, USES, Check, now_us
from services.data.version_numbers import version_number
from services.runtime.database import Database, is_among

SHOWN = 10


class Uses:
    """What is used in all projects."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def begin(self, user: str, names: Collection[str], *, seconds: float, allow_missing: bool = False) -> None:
        """Notes that `user` uses datasets, versions and models for so long; one that lasts longer is left as it is.

        Raises NotFound for what does not exist, unless `allow_missing`, and RESOURCE_NAME_INVALID.
        """
        insert = self._database.insert(USES)
        given, kept = insert.excluded.expire_us, USES.c.expire_us
        longer = insert.on_conflict_do_update(
            index_elements=[USES.c.name, USES.c.user],
            set_={"expire_us": sa.case((given > kept, given), else_=kept)},
        )
        expire_us = now_us() + int(seconds * 1e6)

        def begin(connection: Connection) -> None:
            found = set[str]()
            for name in sorted(set(names)):  # in one order, so that concurrent callers cannot deadlock
                try:
                    found.add(_found(connection, name))
                except NotFound:
                    if not allow_missing:
                        raise
            rows = [
                {"name": name, "user": user, "unversioned": unversioned(name), "expire_us": expire_us}
                for name in sorted(found)
            ]
            if rows:
                connection.execute(longer, rows)

        await self._database.write(begin)

    async def end(self, user: str) -> None:
        """Notes that `user` uses nothing any more."""
        rows = USES.delete().where(USES.c.user == user)
        await self._database.write(lambda connection: connection.execute(rows))

    async def users(self, names: Sequence[str]) -> dict[str, list[str]]:
        """Who uses datasets, counting those who use a version of them, and versions, by name; in order."""

        def read(connection: Connection) -> list[tuple[str, str, str]]:
            is_one = sa.or_(*(is_among(connection, column, names) for column in (USES.c.name, USES.c.unversioned)))
            query = sa.select(USES.c.name, USES.c.unversioned, USES.c.user).where(is_one, USES.c.expire_us > now_us())
            return [(row.name, row.unversioned, row.user) for row in connection.execute(query)]

        found = defaultdict[str, set[str]](set)
        for name, whole, user in await self._database.read(read) if names else ():
            found[name].add(user)
            found[whole].add(user)
        return {name: sorted(found[name]) for name in names if name in found}

    async def require_none(self, name: str) -> None:
        """Raises DATASET_IN_USE, MODEL_IN_USE."""
        _refuse(name, (await self.users([name])).get(name, []))

    async def forget_expired(self) -> int:
        """Removes uses whose time has come; returns their number."""
        rows = USES.delete().where(USES.c.expire_us <= now_us())
        return await self._database.write(lambda connection: int(connection.execute(rows).rowcount))


def unless_used(name: str, *, force: bool) -> Check:
    """What is to be done before a dataset, a version or a model version is deleted, in the same transaction.

    Raises FailedPrecondition (`DATASET_IN_USE`, `MODEL_IN_USE`), unless `force`.
    """
    is_one = sa.or_(USES.c.name == name, USES.c.unversioned == name)
    users = sa.select(USES.c.user).where(is_one, USES.c.expire_us > now_us()).distinct().order_by(USES.c.user)

    def check(connection: Connection) -> None:
        _lock(connection, name, shared=False)
        if not force:
            _refuse(name, connection.scalars(users).all())
        connection.execute(USES.delete().where(is_one))  # or they would be of the next one that has its name

    return check


def _refuse(name: str, users: Sequence[str]) -> None:
    """Raises DATASET_IN_USE or MODEL_IN_USE if there are users."""
    if users:
        more = f" and {len(users) - SHOWN} more" if len(users) > SHOWN else ""
        message = (
            f"{name} is in use by {', '.join(users[:SHOWN])}{more}: wait for jobs to end or cancel them, delete "
            "campaigns, or delete it all the same with `force`."
        )
        reason = "MODEL_IN_USE" if "/models/" in name else "DATASET_IN_USE"
        raise FailedPrecondition(message, reason=reason, metadata={"name": name, "users": ",".join(users[:SHOWN])})


def _found(connection: Connection, name: str) -> str:
    """The name of what a use names, which stays until the transaction ends. Raises NotFound, RESOURCE_NAME_INVALID."""
    if matches(name, MODEL):
        name = f"{name}/versions/{NEWEST}"
    if matches(name, MODEL_VERSION):
        number = _lock(connection, name, shared=True)
        if number is None:
            raise version_not_found("MODEL_VERSION", name)
        return f"{unversioned(name)}/versions/{number}"
    if not matches(name, DATASET):
        parse(name, DATASET_VERSION)
    if _lock(connection, name, shared=True) is None:
        raise not_found("DATASET", unversioned(name))
    if matches(name, DATASET):
        return name
    number = connection.scalar(_newest(DATASET_VERSIONS, DATASET_VERSIONS.c.dataset, name))
    if number is None:
        raise version_not_found("DATASET_VERSION", name)
    return f"{unversioned(name)}/versions/{number}"


def _lock(connection: Connection, name: str, *, shared: bool) -> int | str | None:
    """Locks the row of a dataset, or of a model version, until the transaction ends; None if there is none.

    Returns the name of the dataset, or the number of the version.
    """
    if matches(name, MODEL_VERSION):
        query: sa.Select[Any] = _newest(MODEL_VERSIONS, MODEL_VERSIONS.c.model, name)
    else:
        query = sa.select(DATASETS.c.name).where(DATASETS.c.name == unversioned(name))
    found: int | str | None = connection.scalar(query.with_for_update(read=shared))
    return found


def _newest(table: sa.Table, column: sa.Column[str], name: str) -> "sa.Select[Any]":
    """The number of a version that is not deleted, if there is one; the greatest of all if `name` has none."""
    query = sa.select(table.c.number).where(column == unversioned(name), table.c.deleted_us.is_(None))
    number = version_number(name.rpartition("/")[2])
    query = query if number is None else query.where(table.c.number == number)
    return query.order_by(table.c.number.desc()).limit(1)
