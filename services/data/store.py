"""The data service's metadata in SQL: datasets, their versions, answered requests, lineage, and who holds or uses what.

Messages are stored as serialised protos beside the few columns that are searched. Times are microseconds since 1970.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from google.protobuf import timestamp_pb2
from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from omnialign.v1.data_service_pb2 import LineageEdge as Edge
from omnialign.v1.dataset_pb2 import Dataset, DatasetVersion
from services.runtime.database import Database
from services.runtime.migrations import Migrations

Check = Callable[[Connection], None]
"""Raises what stands against a change, within its transaction."""
DatasetChange = Callable[[Dataset], None]
"""Edits a dataset in place; called again when its transaction is repeated."""
MAX_NAME_CHARACTERS = 1024
"""Longest name of an artefact in the lineage."""
METADATA = sa.MetaData()
DATASETS = sa.Table(
    "datasets",
    METADATA,
    sa.Column("name", sa.String(255), primary_key=True),
    sa.Column("parent", sa.String(80), nullable=False, index=True),
    sa.Column("created_us", sa.BigInteger, nullable=False),
    sa.Column("message", sa.LargeBinary, nullable=False),
    sa.Column("expire_us", sa.BigInteger, index=True),
)
DATASET_VERSIONS = sa.Table(
    "dataset_versions",
    METADATA,
    sa.Column("dataset", sa.ForeignKey("datasets.name", ondelete="CASCADE"), primary_key=True),
    sa.Column("number", sa.BigInteger, primary_key=True),
    sa.Column("state", sa.BigInteger, nullable=False),
    sa.Column("message", sa.LargeBinary, nullable=False),
    sa.Column("deleted_us", sa.BigInteger),
)
MODEL_VERSIONS = sa.Table(
    "model_versions",
    METADATA,
    sa.Column("model", sa.String(255), primary_key=True),
    sa.Column("number", sa.BigInteger, primary_key=True),
    sa.Column("parent", sa.String(80), nullable=False, index=True),
    sa.Column("created_us", sa.BigInteger, nullable=False),
    sa.Column("message", sa.LargeBinary, nullable=False),
    sa.Column("deleted_us", sa.BigInteger),
)
MODEL_FILES = sa.Table(
    "model_files",
    METADATA,
    sa.Column("sha256", sa.String(64), primary_key=True),
    sa.Column("claimed_us", sa.BigInteger, nullable=False),
    sa.Column("is_removed", sa.Boolean, nullable=False),
)
REQUESTS = sa.Table(
    "data_requests",
    METADATA,
    sa.Column("key", sa.String(255), primary_key=True),
    sa.Column("digest", sa.String(64), nullable=False),
    sa.Column("dataset", sa.ForeignKey("datasets.name", ondelete="CASCADE"), nullable=False),
)
EDGES = sa.Table(
    "lineage",
    METADATA,
    sa.Column("source", sa.String(MAX_NAME_CHARACTERS), primary_key=True),
    sa.Column("target", sa.String(MAX_NAME_CHARACTERS), primary_key=True, index=True),
    sa.Column("relation", sa.String(64), primary_key=True),
    sa.Column("parent", sa.String(80), primary_key=True),
)
HELD_OBJECTS = sa.Table(
    "held_objects",
    METADATA,
    sa.Column("holder", sa.String(255), primary_key=True),
    sa.Column("key", sa.String(64), primary_key=True),
    sa.Column("parent", sa.String(80), nullable=False, index=True),
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
    sa.Column("expire_us", sa.BigInteger),
    sa.Column("held_us", sa.BigInteger, nullable=False, server_default="0"),
    sa.Index("ix_held_objects_key", "key"),
)
"""The objects that count for projects, and are named by what holds them: see `usage`."""
PACKED_MEDIA = sa.Table(
    "packed_media",
    METADATA,
    sa.Column("sha256", sa.LargeBinary(32), primary_key=True),
    sa.Column("pack", sa.LargeBinary(32), nullable=False, index=True),
    sa.Column("offset", sa.BigInteger, nullable=False),
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
    sa.Column("mime_type", sa.String(255), nullable=False),
)
"""Where small media lie: see `packed_media`."""
CONDEMNED_OBJECTS = sa.Table(
    "condemned_objects",
    METADATA,
    sa.Column("key", sa.String(80), primary_key=True),
    sa.Column("since_us", sa.BigInteger, nullable=False, index=True),
    sa.Column("claimed_us", sa.BigInteger),
)
"""What nobody names: see `garbage.condemned`."""
COUNTED_DATASETS = sa.Table("counted_datasets", METADATA, sa.Column("dataset", sa.String(255), primary_key=True))
"""The datasets that hold exactly what they name: see `garbage.references`."""
USES = sa.Table(
    "uses",
    METADATA,
    sa.Column("name", sa.String(255), primary_key=True),
    sa.Column("user", sa.String(255), primary_key=True, index=True),
    sa.Column("unversioned", sa.String(255), nullable=False, index=True),
    sa.Column("expire_us", sa.BigInteger, nullable=False),
)
"""The datasets and models that jobs and campaigns use: see `uses`."""
OF_DATASET = sa.select(DATASETS.c.message).where(DATASETS.c.name == sa.bindparam("wanted"))
"""The message of a dataset, which nearly each call asks for: built once."""
NAMES_PER_QUERY = 400  # SQLite limits the number of parameters of a query
MIGRATIONS = Migrations("data", Path(__file__).parent / "migrations", witness="datasets")


class Store:
    """Reads and writes the metadata."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def prepare(self) -> None:
        """Brings the tables up to date. Raises FailedPrecondition (`SCHEMA_OUTDATED`)."""
        await MIGRATIONS.prepare(self._database)

    async def look(self) -> None:
        """Raises what keeps the store from being used, such as Unavailable (`DATABASE_UNAVAILABLE`)."""
        await MIGRATIONS.look(self._database)

    async def add_dataset(self, dataset: Dataset, *, parent: str, created_us: int, key: str, digest: str) -> bool:
        """Adds a dataset and, if `key`, the request that created it; False if either exists."""
        row = {"name": dataset.name, "parent": parent, "created_us": created_us, **_stored(dataset)}

        def add(connection: Connection) -> None:
            connection.execute(DATASETS.insert().values(row))
            connection.execute(COUNTED_DATASETS.insert().values(dataset=dataset.name))  # it names nothing yet
            if key:
                answer = {"key": key, "digest": digest, "dataset": dataset.name}
                connection.execute(REQUESTS.insert().values(answer))

        try:
            await self._database.write(add)
        except IntegrityError:
            return False
        return True

    async def request(self, key: str) -> tuple[str, str] | None:
        """Body digest and dataset name of an answered request; None if there is none."""
        query = sa.select(REQUESTS.c.digest, REQUESTS.c.dataset).where(REQUESTS.c.key == key)
        rows = await self._rows(query)
        return (rows[0][0], rows[0][1]) if rows else None

    async def dataset_uid(self, name: str) -> str | None:
        """The uid of a dataset; None if it does not exist."""
        blob = await self._dataset(name)
        return None if blob is None else Dataset.FromString(blob).uid

    async def dataset_uids(self) -> set[str]:
        """The uids of all datasets of all projects."""
        return {Dataset.FromString(row[0]).uid for row in await self._rows(sa.select(DATASETS.c.message))}

    async def dataset(self, name: str) -> Dataset | None:
        """A dataset with `latest_version` but without `record_count`; None if it does not exist."""
        blob = await self._dataset(name)
        return None if blob is None else await self._with_version(Dataset.FromString(blob))

    async def datasets(self, parent: str, *, after: Sequence[str], limit: int) -> list[tuple[int, Dataset]]:
        """Creation times and datasets, newest first; `after` is time and name of the last one already seen."""
        query = sa.select(DATASETS.c.created_us, DATASETS.c.message).where(DATASETS.c.parent == parent)
        if after:
            position = sa.tuple_(DATASETS.c.created_us, DATASETS.c.name)
            query = query.where(position < sa.tuple_(sa.literal(int(after[0])), sa.literal(after[1])))
        query = query.order_by(DATASETS.c.created_us.desc(), DATASETS.c.name.desc()).limit(limit)
        return [(us, await self._with_version(Dataset.FromString(blob))) for us, blob in await self._rows(query)]

    async def expired_datasets(self) -> list[str]:
        """The names of the datasets whose time is over, of all projects."""
        query = sa.select(DATASETS.c.name).where(DATASETS.c.expire_us <= now_us()).order_by(DATASETS.c.expire_us)
        return [row.name for row in await self._rows(query)]

    async def change_dataset(self, name: str, change: DatasetChange) -> bool:
        """Changes a dataset; False if it does not exist."""
        query = sa.select(DATASETS.c.message).where(DATASETS.c.name == name).with_for_update()

        def write(connection: Connection) -> bool:
            if (blob := connection.scalar(query)) is None:
                return False
            dataset = Dataset.FromString(blob)
            change(dataset)
            connection.execute(DATASETS.update().where(DATASETS.c.name == name).values(_stored(dataset)))
            return True

        return await self._database.write(write)

    async def dataset_count(self, parent: str) -> int:
        """How many datasets a project has."""
        query = sa.select(sa.func.count()).select_from(DATASETS).where(DATASETS.c.parent == parent)
        return int((await self._rows(query))[0][0])

    async def remove_dataset(self, name: str, *, before: Check) -> bool:
        """Removes a dataset with its versions, unless `before` raises; False if it does not exist."""

        def remove(connection: Connection) -> bool:
            before(connection)
            for table in (DATASET_VERSIONS, REQUESTS, COUNTED_DATASETS):
                connection.execute(table.delete().where(table.c.dataset == name))
            connection.execute(HELD_OBJECTS.delete().where(HELD_OBJECTS.c.holder == name))
            return bool(connection.execute(DATASETS.delete().where(DATASETS.c.name == name)).rowcount)

        return await self._database.write(remove)

    async def add_version(self, dataset: str, version: DatasetVersion, *, number: int, state: int) -> bool:
        """Adds a version; False if another writer took the number or the dataset is gone."""
        row = {"dataset": dataset, "number": number, "state": state, "message": version.SerializeToString()}
        return await self._insert(DATASET_VERSIONS, row)

    async def version(self, dataset: str, number: int | None) -> tuple[int, int, DatasetVersion] | None:
        """Number, table state and message of a version; the newest if `number` is None."""
        query = _version_query(dataset)
        query = query.limit(1) if number is None else query.where(DATASET_VERSIONS.c.number == number)
        rows = await self._rows(query)
        return (rows[0][0], rows[0][1], DatasetVersion.FromString(rows[0][2])) if rows else None

    async def uncount_dataset(self, dataset: str) -> None:
        """Notes that a dataset may hold more than it names."""
        rows = COUNTED_DATASETS.delete().where(COUNTED_DATASETS.c.dataset == dataset)
        await self._database.write(lambda connection: connection.execute(rows))

    async def last_number(self, dataset: str) -> int:
        """The greatest number that a version was given, whether it is deleted or not; 0 before the first."""
        query = sa.select(sa.func.max(DATASET_VERSIONS.c.number)).where(DATASET_VERSIONS.c.dataset == dataset)
        return int((await self._rows(query))[0][0] or 0)

    async def remove_version(self, dataset: str, number: int, *, before: Check) -> bool:
        """Deletes a version, whose number is not given again, unless `before` raises; False if there is none."""
        table = DATASET_VERSIONS

        def remove(connection: Connection) -> bool:
            before(connection)
            connection.execute(COUNTED_DATASETS.delete().where(COUNTED_DATASETS.c.dataset == dataset))
            row = table.update().where(
                table.c.dataset == dataset, table.c.number == number, table.c.deleted_us.is_(None)
            )
            return bool(connection.execute(row.values(deleted_us=now_us())).rowcount)

        return await self._database.write(remove)

    async def versions(self, dataset: str, *, before: int | None, limit: int) -> list[tuple[int, DatasetVersion]]:
        """Numbers and versions, newest first."""
        query = _version_query(dataset).limit(limit)
        if before is not None:
            query = query.where(DATASET_VERSIONS.c.number < before)
        return [(number, DatasetVersion.FromString(blob)) for number, _, blob in await self._rows(query)]

    async def add_edges(self, parent: str, edges: Iterable[Edge]) -> None:
        """Adds edges; existing ones are left as they are."""
        # Sorted, so that concurrent writers lock rows in the same order and cannot deadlock.
        keys = sorted({(edge.source, edge.target, edge.relation) for edge in edges})
        rows = [{"source": source, "target": target, "relation": how, "parent": parent} for source, target, how in keys]
        insert = self._database.insert(EDGES).on_conflict_do_nothing()
        if rows:
            await self._database.write(lambda connection: connection.execute(insert, rows))

    async def edges(self, parent: str, names: Sequence[str], *, upwards: bool) -> list[Edge]:
        """The edges that lead to these names if `upwards`, else those that start at them."""
        near, found = (EDGES.c.target if upwards else EDGES.c.source), []
        for start in range(0, len(names), NAMES_PER_QUERY):
            query = sa.select(EDGES.c.source, EDGES.c.target, EDGES.c.relation).where(EDGES.c.parent == parent)
            query = query.where(near.in_(names[start : start + NAMES_PER_QUERY]))
            rows = await self._rows(query.order_by(EDGES.c.source, EDGES.c.target, EDGES.c.relation))
            found += [Edge(source=source, target=target, relation=relation) for source, target, relation in rows]
        return found

    async def _with_version(self, dataset: Dataset) -> Dataset:
        table = DATASET_VERSIONS.c
        is_live = (table.dataset == dataset.name, table.deleted_us.is_(None))
        query = sa.select(sa.func.max(table.number)).where(*is_live)
        dataset.latest_version = (await self._rows(query))[0][0] or 0
        return dataset

    async def _dataset(self, name: str) -> bytes | None:
        return await self._database.read(lambda connection: connection.scalar(OF_DATASET, {"wanted": name}))

    async def _insert(self, table: sa.Table, row: dict[str, object]) -> bool:
        try:
            await self._database.write(lambda connection: connection.execute(table.insert().values(row)))
        except IntegrityError:
            return False
        return True

    async def _rows(self, query: sa.Select[Any]) -> Any:
        return await self._database.read(lambda connection: connection.execute(query).all())


def _stored(dataset: Dataset) -> dict[str, object]:
    expire_us = dataset.expire_time.ToMicroseconds() if dataset.HasField("expire_time") else None
    return {"message": dataset.SerializeToString(deterministic=True), "expire_us": expire_us}


def _version_query(dataset: str) -> sa.Select[Any]:
    table = DATASET_VERSIONS
    query = sa.select(table.c.number, table.c.state, table.c.message).where(table.c.dataset == dataset)
    return query.where(table.c.deleted_us.is_(None)).order_by(table.c.number.desc())


def is_held() -> sa.ColumnElement[bool]:
    """The condition that a row of HELD_OBJECTS still counts."""
    return sa.or_(HELD_OBJECTS.c.expire_us.is_(None), HELD_OBJECTS.c.expire_us > now_us())


def now_us() -> int:
    """Microseconds since 1970."""
    return time.time_ns() // 1000


def timestamp(microseconds: int) -> timestamp_pb2.Timestamp:
    """`microseconds` since 1970 as a message."""
    moment = timestamp_pb2.Timestamp()
    moment.FromMicroseconds(microseconds)
    return moment
