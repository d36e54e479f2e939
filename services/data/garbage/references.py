"""Counting anew which media a dataset names.

A dataset holds the media of its records before anybody can read the records (`Datasets`). What only its deleted
versions, replaced records and removed rows named is found by reading all that is left: the collector does so for
datasets that lost something, and for those that were written before such holds were kept.
"""

from collections.abc import AsyncIterator
from contextlib import suppress

import sqlalchemy as sa
from sqlalchemy import Connection

from omnialign.errors import NotFound
from omnialign.names import project_name_of
from omnialign.v1 import record_pb2
from services.data.datasets import Datasets
from services.data.selection import Selection
from services.data.store import COUNTED_DATASETS, DATASETS, HELD_OBJECTS, NAMES_PER_QUERY, now_us
from services.data.usage import Usage, named_media
from services.runtime.database import Database

VERSIONS_TOGETHER = 100


class References:
    """What the datasets of all projects name."""

    def __init__(self, database: Database, *, datasets: Datasets, usage: Usage, grace_seconds: float) -> None:
        """Whatever was named within the last `grace_seconds` stays: its record may not be there to be read yet."""
        self._database, self._datasets, self._usage = database, datasets, usage
        self._grace_us = int(grace_seconds * 1e6)

    async def uncounted(self) -> AsyncIterator[str]:
        """Datasets that may hold more than they name, or less."""
        name, last = DATASETS.c.name, ""
        counted = sa.select(COUNTED_DATASETS.c.dataset)
        while True:
            query = sa.select(name).where(name.notin_(counted), name > last).order_by(name).limit(NAMES_PER_QUERY)
            if not (found := [row.name for row in await self._database.all(query)]):
                return
            for last in found:
                yield last

    async def recount(self, name: str) -> bool:
        """Reads all records of a dataset, and makes it hold what they name and no more.

        False if some of what it holds was named so recently that this can only be said later.
        """
        begun_us, parent = now_us(), project_name_of(name)
        await self._begin(name)
        with suppress(NotFound):
            async for records in self._batches(name):
                await self._usage.hold(name, named_media(records), parent=parent)
        return await self._database.write(lambda connection: self._settle(connection, name, begun_us))

    async def release_deleted(self) -> None:
        """Ends the holds of datasets that are gone, which writers that were at work then may have left behind."""
        of_datasets = HELD_OBJECTS.c.holder.like("projects/%/datasets/%")
        is_old = HELD_OBJECTS.c.held_us < now_us() - self._grace_us
        rows = HELD_OBJECTS.delete().where(
            of_datasets, is_old, HELD_OBJECTS.c.holder.notin_(sa.select(DATASETS.c.name))
        )
        await self._database.write(lambda connection: connection.execute(rows))

    async def _begin(self, name: str) -> None:
        """Says that the dataset is counted: whatever is removed from it from now on takes that back."""
        insert = self._database.insert(COUNTED_DATASETS).on_conflict_do_nothing()
        await self._database.write(lambda connection: connection.execute(insert, {"dataset": name}))

    def _settle(self, connection: Connection, name: str, begun_us: int) -> bool:
        """Releases what was not seen since the count began, unless it may have been named just before."""
        held, before_us = HELD_OBJECTS.c, begun_us - self._grace_us
        connection.execute(HELD_OBJECTS.delete().where(held.holder == name, held.held_us < before_us))
        recent = sa.select(held.key).where(held.holder == name, held.held_us < begun_us).limit(1)
        is_settled = connection.execute(recent).first() is None
        if not is_settled:
            connection.execute(COUNTED_DATASETS.delete().where(COUNTED_DATASETS.c.dataset == name))
        return is_settled

    async def _batches(self, name: str) -> AsyncIterator[list[record_pb2.Record]]:
        """All records of the head, the quarantine and the versions. Raises NotFound once the dataset is gone."""
        async for batch in self._datasets.stream(name, Selection()):
            yield batch
        async for batch in self._datasets.stream_quarantine(name):
            yield batch
        position: list[str] = []
        while True:
            versions, position = await self._datasets.list_versions(name, after=position, limit=VERSIONS_TOGETHER)
            for version in versions:
                with suppress(NotFound):  # deleted meanwhile
                    async for batch in self._datasets.stream(version.name, Selection()):
                        yield batch
            if not position:
                return
