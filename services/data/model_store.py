"""The model registry in SQL: versions, those that were deleted among them, and the files that versions share.

A deleted version keeps its row, so that its number is not given again. Its files go once no version needs them; two
transactions keep a registration of the same files from coming in between: whoever registers claims the files first,
and whoever removes them finds no version and no recent claim, and lets nobody claim them until they are gone.
"""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from omnialign.names import project_name_of
from omnialign.v1.model_pb2 import ModelVersion
from services.data.store import HELD_OBJECTS, MODEL_FILES, MODEL_VERSIONS, Check, now_us
from services.runtime.database import Database

IS_LIVE = MODEL_VERSIONS.c.deleted_us.is_(None)


class ModelStore:
    """Reads and writes model versions."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, version: ModelVersion, *, model: str, number: int, created_us: int) -> bool:
        """Adds a version; False if another writer took the number."""
        parent, blob = project_name_of(model), version.SerializeToString(deterministic=True)
        row = {"model": model, "number": number, "parent": parent, "created_us": created_us, "message": blob}
        try:
            await self._database.write(lambda connection: connection.execute(MODEL_VERSIONS.insert().values(row)))
        except IntegrityError:
            return False
        return True

    async def last_number(self, model: str) -> int:
        """The highest number that was ever given to a version of a model; 0 if none was."""
        query = sa.select(sa.func.max(MODEL_VERSIONS.c.number)).where(MODEL_VERSIONS.c.model == model)
        return int((await self._rows(query))[0][0] or 0)

    async def find(self, model: str, number: int | None) -> ModelVersion | None:
        """A version; the newest if `number` is None."""
        table = MODEL_VERSIONS
        query = sa.select(table.c.message).where(table.c.model == model, IS_LIVE)
        query = query.order_by(table.c.number.desc()).limit(1)
        rows = await self._rows(query if number is None else query.where(table.c.number == number))
        return ModelVersion.FromString(rows[0][0]) if rows else None

    async def page(self, parent: str, *, after: Sequence[str], limit: int) -> list[tuple[list[str], ModelVersion]]:
        """Positions and versions, newest first; `after` is the position of the last one already seen."""
        table = MODEL_VERSIONS
        query = sa.select(table.c.created_us, table.c.model, table.c.number, table.c.message)
        query = query.where(table.c.parent == parent, IS_LIVE)
        position = (table.c.created_us, table.c.model, table.c.number)
        if after:
            seen = (sa.literal(int(after[0])), sa.literal(after[1]), sa.literal(int(after[2])))
            query = query.where(sa.tuple_(*position) < sa.tuple_(*seen))
        rows = await self._rows(query.order_by(*(column.desc() for column in position)).limit(limit))
        return [([str(us), model, str(n)], ModelVersion.FromString(blob)) for us, model, n, blob in rows]

    async def loras_of(self, name: str) -> list[str]:
        """The versions that have this one as their base, which are in its project."""
        query = sa.select(MODEL_VERSIONS.c.message).where(MODEL_VERSIONS.c.parent == project_name_of(name), IS_LIVE)
        versions = [ModelVersion.FromString(blob) for (blob,) in await self._rows(query)]
        return sorted(version.name for version in versions if version.lora_base == name)

    async def delete(self, name: str, *, model: str, number: int, before: Check) -> bool:
        """Deletes a version, which no longer counts for its project, unless `before` raises; False if there is none."""
        table = MODEL_VERSIONS

        def delete(connection: Connection) -> bool:
            before(connection)
            connection.execute(HELD_OBJECTS.delete().where(HELD_OBJECTS.c.holder == name))
            row = table.update().where(table.c.model == model, table.c.number == number, IS_LIVE)
            return bool(connection.execute(row.values(deleted_us=now_us())).rowcount)

        return await self._database.write(delete)

    async def claim_files(self, sha256: str) -> bool:
        """Keeps files from being removed while they are registered; False if they are being removed."""
        table = MODEL_FILES
        insert = self._database.insert(table).on_conflict_do_nothing()

        def claim(connection: Connection) -> bool:
            connection.execute(insert, {"sha256": sha256, "claimed_us": 0, "is_removed": False})
            row = table.update().where(table.c.sha256 == sha256, table.c.is_removed.is_(False))
            return bool(connection.execute(row.values(claimed_us=now_us())).rowcount)

        return await self._database.write(claim)

    async def unneeded_files(self, *, claimed_before_us: int) -> list[str]:
        """Digests of files that no version has and that nobody has claimed of late."""

        def find(connection: Connection) -> list[str]:
            query = sa.select(MODEL_FILES.c.sha256).where(MODEL_FILES.c.claimed_us < claimed_before_us)
            return sorted(set(connection.scalars(query)) - _needed(connection))

        return await self._database.read(find)

    async def begin_removal(self, sha256: str, *, claimed_before_us: int) -> bool:
        """Lets nobody claim files any more; False if a version has them, or somebody has claimed them of late."""
        table = MODEL_FILES

        def begin(connection: Connection) -> bool:
            row = table.update().where(table.c.sha256 == sha256, table.c.claimed_us < claimed_before_us)
            is_free = bool(connection.execute(row.values(is_removed=True)).rowcount)
            if is_free and sha256 in _needed(connection):
                connection.execute(row.values(is_removed=False))
                return False
            return is_free

        return await self._database.write(begin)

    async def end_removal(self, sha256: str) -> None:
        """Lets files be claimed again, now that they are gone."""
        row = MODEL_FILES.delete().where(MODEL_FILES.c.sha256 == sha256)
        await self._database.write(lambda connection: connection.execute(row))

    async def _rows(self, query: sa.Select[Any]) -> Any:
        return await self._database.read(lambda connection: connection.execute(query).all())


def _needed(connection: Connection) -> set[str]:
    """The digests of all versions, of whatever project."""
    blobs = connection.scalars(sa.select(MODEL_VERSIONS.c.message).where(IS_LIVE))
    return {ModelVersion.FromString(blob).sha256 for blob in blobs}
