"""Datasets: a head that grows by record id, and numbered versions of it that never change."""

import asyncio
import re
import uuid
from collections.abc import AsyncIterator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from omnialign.errors import Aborted, AlreadyExists, InvalidArgument, NotFound
from omnialign.names import DATASET, DATASET_VERSION, PROJECT, parse
from omnialign.v1.dataset_pb2 import Dataset, DatasetVersion
from omnialign.v1.record_pb2 import Record
from services.data.clock import now_us, timestamp
from services.data.config import DataConfig
from services.data.pool import call
from services.data.store import Store
from services.data.table import Budget, RecordTable, Selection, Snapshot

SAFE = re.compile(r"[a-z][a-z0-9-]{0,62}")
COMMIT_ATTEMPTS = 5
NEWEST = "-"


def missing(kind: str, name: str) -> NotFound:
    """The error for a resource that is not there."""
    return NotFound(f"There is no {name}.", reason=f"{kind}_NOT_FOUND", metadata={"name": name})


def version_number(text: str) -> int | None:
    """The number in a version's name; None for the newest (`-`). Raises RESOURCE_NAME_INVALID."""
    if text == NEWEST:
        return None
    if text.isascii() and text.isdigit() and len(text) < 19:
        return int(text)
    message = f"A version is a number or `-`, not {text!r}."
    raise InvalidArgument(message, reason="RESOURCE_NAME_INVALID", metadata={"version": text})


def _equal(one: Snapshot, other: Snapshot) -> bool:
    """Whether two states of a table hold the same records; compactions and empty writes change its number only."""
    return one.version == other.version or one.fingerprint() == other.fingerprint()


class Datasets:
    """The datasets of all projects."""

    def __init__(self, config: DataConfig, *, store: Store, pool: ThreadPoolExecutor) -> None:
        self._config, self._store, self._pool = config, store, pool
        self._folder: Path = config.root / "lance"
        self._locks: dict[str, asyncio.Lock] = {}

    async def create(self, parent: str, dataset_id: str, wanted: Dataset, *, key: str, digest: str) -> Dataset:
        """Creates a dataset. A repeated `key` with the same `digest` gives the first answer.

        Raises DATASET_EXISTS, REQUEST_ID_REUSED.
        """
        if (answered := await self._answered(key, digest)) is not None:
            return answered
        name, created_us = f"{parent}/datasets/{dataset_id}", now_us()
        self._table(name)  # refuses a name that is no folder
        dataset = Dataset(name=name, uid=str(uuid.uuid4()), display_name=wanted.display_name, labels=wanted.labels)
        dataset.create_time.CopyFrom(timestamp(created_us))
        if await self._store.add_dataset(dataset, parent=parent, created_us=created_us, key=key, digest=digest):
            return dataset
        if (answered := await self._answered(key, digest)) is not None:
            return answered
        raise AlreadyExists(f"{name} exists already.", reason="DATASET_EXISTS", metadata={"name": name})

    async def get(self, name: str) -> Dataset:
        """One dataset, with the rows of its head counted. Raises DATASET_NOT_FOUND."""
        parse(name, DATASET)
        dataset = await self._store.dataset(name)
        if dataset is None:
            raise missing("DATASET", name)
        return await self._counted(dataset)

    async def page(self, parent: str, *, after: list[str], limit: int) -> tuple[list[Dataset], list[str]]:
        """A page of datasets, newest first, and the position after it; empty on the last page."""
        parse(parent, PROJECT)
        rows = await self._store.datasets(parent, after=after, limit=limit + 1)
        datasets = [await self._counted(dataset) for _, dataset in rows[:limit]]
        last = rows[limit - 1] if len(rows) > limit else None
        return datasets, [str(last[0]), last[1].name] if last else []

    async def delete(self, name: str) -> None:
        """Deletes a dataset. Raises DATASET_NOT_FOUND."""
        tables = (self._table(name), self.quarantine_table(name))
        async with self._lock(name):
            if not await self._store.remove_dataset(name):
                raise missing("DATASET", name)
            for table in tables:
                await call(self._pool, table.remove, self._folder / ".trash" / str(uuid.uuid4()))

    async def append(self, name: str, records: Iterable[Record]) -> tuple[int, int]:
        """Writes records to the head, all visible together; gives how many were new and how many were there."""
        return await self._merge(name, self._table(name), records)

    async def set_aside(self, name: str, records: Iterable[Record]) -> None:
        """Writes rows to the dataset's quarantine."""
        await self._merge(name, self.quarantine_table(name), records)

    async def pardon(self, name: str, ids: Sequence[str]) -> None:
        """Takes rows out of the quarantine that are records now, since what was wrong with them was mended."""
        table = self.quarantine_table(name)
        if table.exists():
            async with self._lock(name):
                await call(self._pool, table.discard, ids)

    async def commit(self, name: str) -> DatasetVersion:
        """Freezes the head. Gives the newest version when the head holds just that."""
        table = self._table(name)
        for _ in range(COMMIT_ATTEMPTS):
            async with self._lock(name):
                await self._require(name)
                if (version := await self._try_commit(name, table)) is not None:
                    return version
        raise Aborted(f"Other writers commit {name} all the time: try again.", reason="COMMIT_CONFLICT")

    async def version(self, name: str) -> DatasetVersion:
        """One version. Raises DATASET_NOT_FOUND, DATASET_VERSION_NOT_FOUND."""
        return (await self._version(name))[1]

    async def versions(self, name: str, *, after: list[str], limit: int) -> tuple[list[DatasetVersion], list[str]]:
        """A page of versions, newest first, and the position after it; empty on the last page."""
        await self._require(name)
        before = int(after[0]) if after else None
        rows = await self._store.versions(name, before=before, limit=limit + 1)
        position = [str(rows[limit - 1][0])] if len(rows) > limit else []
        return [version for _, version in rows[:limit]], position

    async def stream(self, source: str, selection: Selection) -> AsyncIterator[list[Record]]:
        """The selected records of a dataset's head or of a version, ordered by id, in batches below 1 MiB."""
        if selection.shard_index and selection.shard_index >= selection.shard_count:
            message = f"Shard {selection.shard_index} of {selection.shard_count} does not exist: shards count from 0."
            raise InvalidArgument(message, reason="SHARD_INVALID")
        name, state = source, None
        if "/versions/" in source:
            name = source.partition("/versions/")[0]
            state = (await self._version(source))[0]
        else:
            await self._require(name)
        async for batch in self._read(self._table(name), state, selection):
            yield batch

    async def quarantined(self, name: str) -> AsyncIterator[list[Record]]:
        """The quarantined rows of a dataset."""
        await self._require(name)
        table = self.quarantine_table(name)
        if table.exists():
            async for batch in self._read(table, None, Selection()):
                yield batch

    def quarantine_table(self, name: str) -> RecordTable:
        """The table of a dataset's quarantined rows."""
        return self._table(name, suffix=".quarantine")

    async def _read(self, table: RecordTable, state: int | None, selection: Selection) -> AsyncIterator[list[Record]]:
        snapshot = await call(self._pool, table.snapshot, state)
        batches = snapshot.batches(selection)
        while (batch := await call(self._pool, next, batches, None)) is not None:
            yield batch

    async def _merge(self, name: str, table: RecordTable, records: Iterable[Record]) -> tuple[int, int]:
        async with self._lock(name):  # writers of this process take turns; others are met by Lance's own retry
            await self._require(name)
            counts = await call(self._pool, table.merge, records)
            await call(self._pool, table.tidy)
        return counts

    async def _try_commit(self, name: str, table: RecordTable) -> DatasetVersion | None:
        snapshot = await call(self._pool, table.snapshot)
        newest = await self._store.version(name, None)
        if newest is not None and await call(self._pool, lambda: _equal(snapshot, table.snapshot(newest[1]))):
            return newest[2]
        number = newest[0] + 1 if newest else 1
        counts = await call(self._pool, snapshot.counts)
        version = DatasetVersion(name=f"{name}/versions/{number}", record_count=sum(counts.values()))
        version.subtask_counts.update(counts)
        version.create_time.CopyFrom(timestamp(now_us()))
        await call(self._pool, table.tag, f"v{number}", version=snapshot.version)
        added = await self._store.add_version(name, version, number=number, state=snapshot.version)
        return version if added else None

    async def _version(self, name: str) -> tuple[int, DatasetVersion]:
        parts = parse(name, DATASET_VERSION)
        dataset = name.partition("/versions/")[0]
        await self._require(dataset)
        found = await self._store.version(dataset, version_number(parts["version"]))
        if found is None:
            raise missing("DATASET_VERSION", name)
        return found[1], found[2]

    async def _require(self, name: str) -> None:
        parse(name, DATASET)
        if not await self._store.has_dataset(name):
            raise missing("DATASET", name)

    async def _counted(self, dataset: Dataset) -> Dataset:
        table = self._table(dataset.name)
        if table.exists():
            dataset.record_count = await call(self._pool, lambda: table.snapshot().count())
        return dataset

    async def _answered(self, key: str, digest: str) -> Dataset | None:
        answered = await self._store.request(key) if key else None
        if answered is None:
            return None
        if answered[0] != digest:
            raise InvalidArgument("The request id was used for another request.", reason="REQUEST_ID_REUSED")
        return await self.get(answered[1])

    def _lock(self, name: str) -> asyncio.Lock:
        return self._locks.setdefault(name, asyncio.Lock())

    def _table(self, name: str, *, suffix: str = "") -> RecordTable:
        parts = parse(name, DATASET)
        for part in parts.values():
            if not SAFE.fullmatch(part):
                raise InvalidArgument(f"{name} is not a dataset's name.", reason="RESOURCE_NAME_INVALID")
        return RecordTable(
            self._folder / parts["project"] / f"{parts['dataset']}{suffix}.lance",
            budget=Budget(self._config.commit_retries, self._config.commit_timeout_seconds),
            retention_seconds=self._config.retention_seconds,
            compact_fragments=self._config.compact_fragments,
        )
