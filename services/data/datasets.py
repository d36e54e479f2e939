"""Datasets: a head of records that can still grow, and numbered, immutable versions of it."""

import re
import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace

import pyarrow as pa

from omnialign.errors import Aborted, AlreadyExists, FailedPrecondition, InvalidArgument, NotFound
from omnialign.names import DATASET, DATASET_VERSION, PROJECT, parse, project_name_of, unversioned
from omnialign.v1.dataset_pb2 import Dataset, DatasetVersion
from omnialign.v1.record_pb2 import Record
from services.data.config import DataConfig
from services.data.errors import not_found, version_not_found
from services.data.expiry import change_to, unless_kept, with_expiry
from services.data.objects import ObjectStore
from services.data.objects.base import run_in_pool
from services.data.record_rows import RecordRow, row_of
from services.data.record_table import Choose, CommitRetries, RecordTable
from services.data.selection import Selection
from services.data.snapshot import Caches, Snapshot, SnapshotExpired
from services.data.store import Check, Store, now_us, timestamp
from services.data.stored_records import StoredRecords
from services.data.upkeep import Upkeep
from services.data.usage import Usage, named_media
from services.data.uses import Uses, unless_used
from services.data.version_numbers import version_number
from services.runtime.limits import Quotas
from services.runtime.locks import NamedLocks

SAFE = re.compile(r"[a-z][a-z0-9-]{0,62}")
COMMIT_ATTEMPTS = 5
READ_ATTEMPTS = 4
QUARANTINE = ".quarantine"
JOURNALS = "imports/"
"""Where the journals of imports are, by the uid of their dataset."""
PAGE_BYTES = 1024 * 1024
CLEANUPS = 8
"""Cleanups of a table in the time for which old states are kept."""
LOOKED_INTO = 2000
"""Records that are read for one page of those that match a condition."""

Matches = Callable[[Record], bool]


def _equal(one: Snapshot, other: Snapshot) -> bool:
    """Whether two states of a table hold the same records: compactions and empty writes only change the number."""
    return one.version == other.version or one.fingerprint() == other.fingerprint()


def _table_name(name: str) -> str:
    """The path of a dataset's table. Raises RESOURCE_NAME_INVALID for a name that cannot be a folder."""
    parts = parse(name, DATASET)
    if not all(SAFE.fullmatch(part) for part in parts.values()):
        raise InvalidArgument(f"{name} is not a valid dataset name.", reason="RESOURCE_NAME_INVALID")
    return f"{parts['project']}/{parts['dataset']}"


class Datasets:
    """The datasets of all projects."""

    def __init__(
        self,
        config: DataConfig,
        *,
        store: Store,
        objects: ObjectStore,
        pool: ThreadPoolExecutor,
        usage: Usage,
        uses: Uses,
        quotas: Quotas | None = None,
    ) -> None:
        self._config, self._store, self._objects, self._pool, self._usage = config, store, objects, pool, usage
        self._uses = uses
        self._quotas = quotas or Quotas()
        self._locks = NamedLocks()
        self._caches = Caches.empty()
        clean_seconds = config.retention_seconds / CLEANUPS
        self.upkeep = Upkeep(pool=pool, writes=config.compact_fragments, clean_seconds=clean_seconds)
        """Of the tables, which the service runs in the background."""

    async def create(self, parent: str, dataset_id: str, wanted: Dataset, *, key: str, digest: str) -> Dataset:
        """Creates a dataset. A repeated `key` with the same `digest` returns the first answer.

        Raises DATASET_EXISTS, REQUEST_ID_REUSED, QUOTA_EXCEEDED, EXPIRE_TIME_PAST.
        """
        if (answered := await self._answered(key, digest)) is not None:
            return answered
        name, created_us = f"{parent}/datasets/{dataset_id}", now_us()
        _table_name(name)  # refuses a name that cannot be a folder
        await self._quotas.check(parent, "datasets", lambda: self._store.dataset_count(parent))
        dataset = Dataset(name=name, uid=str(uuid.uuid4()), display_name=wanted.display_name, labels=wanted.labels)
        with_expiry(dataset, wanted)
        dataset.create_time.CopyFrom(timestamp(created_us))
        if await self._store.add_dataset(dataset, parent=parent, created_us=created_us, key=key, digest=digest):
            return dataset
        if (answered := await self._answered(key, digest)) is not None:
            return answered
        raise AlreadyExists(f"{name} already exists.", reason="DATASET_EXISTS", metadata={"name": name})

    async def get(self, name: str) -> Dataset:
        """One dataset, with the rows of its head counted, and its users. Raises DATASET_NOT_FOUND."""
        parse(name, DATASET)
        dataset = await self._store.dataset(name)
        if dataset is None:
            raise not_found("DATASET", name)
        return (await self._counted([dataset]))[0]

    async def list_datasets(self, parent: str, *, after: list[str], limit: int) -> tuple[list[Dataset], list[str]]:
        """A page of datasets, newest first, and the position after it; empty on the last page."""
        parse(parent, PROJECT)
        rows = await self._store.datasets(parent, after=after, limit=limit + 1)
        datasets = await self._counted([dataset for _, dataset in rows[:limit]])
        last = rows[limit - 1] if len(rows) > limit else None
        return datasets, [str(last[0]), last[1].name] if last else []

    async def update(self, wanted: Dataset, fields: Sequence[str]) -> Dataset:
        """Changes fields of a dataset. Raises DATASET_NOT_FOUND, UPDATE_MASK_INVALID, EXPIRE_TIME_PAST."""
        parse(wanted.name, DATASET, field="dataset.name")
        if not await self._store.change_dataset(wanted.name, change_to(wanted, fields)):
            raise not_found("DATASET", wanted.name)
        return await self.get(wanted.name)

    async def delete(self, name: str, *, before: Check) -> None:
        """Deletes a dataset, unless `before` raises, in the same transaction. Raises DATASET_NOT_FOUND."""
        async with self._locks[name]:
            await self._remove(name, uid=await self._require(name), before=before)

    async def sweep_expired(self) -> int:
        """Deletes the datasets that have expired and are not in use; returns their number."""
        count = 0
        for name in await self._store.expired_datasets():
            with suppress(NotFound, FailedPrecondition):  # it is in use, or was given more time meanwhile
                await self.delete(name, before=unless_kept(name))
                count += 1
        return count

    async def append(self, name: str, records: Iterable[Record]) -> tuple[int, int]:
        """Writes records to the head, all visible together; returns the numbers of new and of existing records."""
        records = list(records)
        if media := named_media(records):
            await self._require(name)
            # Before anybody can read them: the collector must find that the dataset names their media.
            await self._usage.hold(name, media, parent=project_name_of(name))
        return await self._merge(name, "", map(row_of, records))

    async def append_rows(self, name: str, rows: Iterable[RecordRow], *, suffix: str = "") -> None:
        """Writes records to the head, or with `QUARANTINE` as suffix to the quarantine.

        The caller has counted their media for the dataset.
        """
        await self._merge(name, suffix, rows)

    async def release(self, name: str, ids: Sequence[str]) -> None:
        """Removes rows from the quarantine that are records now, because what was wrong with them was fixed."""
        table = self._table(name, uid=await self._require(name), suffix=QUARANTINE)
        if await run_in_pool(self._pool, table.find) is not None:
            async with self._locks[name]:
                await run_in_pool(self._pool, table.delete, ids)
            await self._store.uncount_dataset(name)

    async def discard(self, name: str, stale: Choose, *, from_quarantine: bool = False) -> int:
        """Removes the records, or the rows in the quarantine, that `stale` chooses by id; returns their number."""
        suffix = QUARANTINE if from_quarantine else ""
        table = self._table(name, uid=await self._require(name), suffix=suffix)
        if await run_in_pool(self._pool, table.find) is None:
            return 0
        async with self._locks[name]:
            count = await run_in_pool(self._pool, table.delete_where, stale)
        if count:
            await self._store.uncount_dataset(name)
        return count

    async def sweep_journals(self) -> int:
        """Removes the journals of datasets that are gone, which a crash left behind; returns their number."""
        found = await run_in_pool(self._pool, self._journaled)
        gone = found - await self._store.dataset_uids() if found else set()
        for uid in gone:
            await run_in_pool(self._pool, self._objects.delete_below, f"{JOURNALS}{uid}/")
        return len(gone)

    def _journaled(self) -> set[str]:
        """The uids of datasets that have a journal (blocking)."""
        return {info.key.removeprefix(JOURNALS).partition("/")[0] for info in self._objects.list(JOURNALS)}

    async def delete_if_empty(self, name: str) -> None:
        """Deletes a dataset, if it still exists, that holds no record and no version, whatever its quarantine holds."""
        async with self._locks[name]:  # between the look and the removal, nobody may write
            with suppress(NotFound):
                dataset = await self.get(name)
                if not dataset.record_count and not dataset.latest_version:
                    await self._remove(name, uid=dataset.uid, before=unless_used(name, force=True))

    async def commit(self, name: str) -> DatasetVersion:
        """Freezes the head as a new version; returns the newest version if nothing has changed since."""
        for _ in range(COMMIT_ATTEMPTS):
            async with self._locks[name]:
                table = self._table(name, uid=await self._require(name))
                with suppress(SnapshotExpired):
                    if (version := await self._try_commit(name, table)) is not None:
                        return version
        raise Aborted(f"Other writers keep committing {name}: try again.", reason="COMMIT_CONFLICT")

    async def get_version(self, name: str) -> DatasetVersion:
        """One version; `-` is the newest. Raises DATASET_NOT_FOUND, DATASET_VERSION_NOT_FOUND."""
        return (await self._version(name))[1]

    async def delete_version(self, name: str, *, force: bool = False) -> None:
        """Deletes a version; its number is not given again.

        Raises DATASET_VERSION_NOT_FOUND, and unless `force` DATASET_IN_USE.
        """
        parts, dataset = parse(name, DATASET_VERSION), unversioned(name)
        if (number := version_number(parts["version"])) is None:
            message = f"{dataset}: name the version to delete by its number, not by `-`."
            raise InvalidArgument(message, reason="RESOURCE_NAME_INVALID", metadata={"name": name})
        async with self._locks[dataset]:
            table = self._table(dataset, uid=await self._require(dataset))
            state, _ = await self._version(name)
            # The row goes first: a version that is listed can always be read.
            before = unless_used(f"{dataset}/versions/{number}", force=force)
            if not await self._store.remove_version(dataset, number, before=before):
                raise version_not_found("DATASET_VERSION", name)
            await run_in_pool(self._pool, table.untag, f"v{number}-{state}")

    async def list_versions(self, name: str, *, after: list[str], limit: int) -> tuple[list[DatasetVersion], list[str]]:
        """A page of versions, newest first, and the position after it; empty on the last page."""
        await self._require(name)
        before = int(after[0]) if after else None
        rows = await self._store.versions(name, before=before, limit=limit + 1)
        position = [str(rows[limit - 1][0])] if len(rows) > limit else []
        return [version for _, version in rows[:limit]], position

    async def stream(self, source: str, selection: Selection) -> AsyncIterator[list[Record]]:
        """The selected records of a dataset's head or of a version, ordered by id, in batches below 1 MiB."""
        async for batch in self.stored(source, selection):
            yield await run_in_pool(self._pool, batch.records)

    async def stored(self, source: str, selection: Selection) -> AsyncIterator[StoredRecords]:
        """`stream` without parsing the records."""
        if selection.shard_index and selection.shard_index >= selection.shard_count:
            message = f"Shard {selection.shard_index} of {selection.shard_count} does not exist: shards count from 0."
            raise InvalidArgument(message, reason="SHARD_INVALID")
        name = unversioned(source)
        state = None if name == source else (await self._version(source))[0]
        async for batch in self._read(name, state, selection):
            yield batch

    async def page(
        self, source: str, selection: Selection, matches: Matches | None, *, limit: int
    ) -> tuple[list[Record], str]:
        """At most `limit` of the selected records that match, in order of id, and the id to go on after.

        The id is empty at the end. A page ends early where it gets too large, and where `matches` has looked into as
        many records as it may.
        """
        page, size_bytes, last = list[Record](), 0, ""
        most = LOOKED_INTO if matches else limit
        async for batch in self.stream(source, replace(selection, limit=most + 1)):
            for record in batch:
                size_bytes += record.ByteSize() if (is_match := matches is None or matches(record)) else 0
                most -= 1
                if most < 0 or len(page) == limit or (is_match and page and size_bytes > PAGE_BYTES):
                    return page, last
                if is_match:
                    page.append(record)
                last = record.id
        return page, ""

    async def states(self, name: str, *, in_quarantine: bool = False) -> pa.Table | None:
        """`hash` and `fingerprint` of the records of the head or of the quarantine; None if there are none."""
        suffix = QUARANTINE if in_quarantine else ""
        table = self._table(name, uid=await self._require(name), suffix=suffix)
        if (snapshot := await run_in_pool(self._pool, table.find)) is None:
            return None
        return await run_in_pool(self._pool, snapshot.states)

    async def stream_quarantine(self, name: str) -> AsyncIterator[list[Record]]:
        """The quarantined rows of a dataset."""
        table = self._table(name, uid=await self._require(name), suffix=QUARANTINE)
        if await run_in_pool(self._pool, table.find) is not None:
            async for batch in self._read(name, None, Selection(), suffix=QUARANTINE):
                yield await run_in_pool(self._pool, batch.records)

    async def _read(
        self, name: str, state: int | None, selection: Selection, *, suffix: str = ""
    ) -> AsyncIterator[StoredRecords]:
        """The selected records. A head that is cleaned up while it is read goes on as it is by then."""
        left: Selection | None = selection
        attempts = 0
        while left is not None:
            table = self._table(name, uid=await self._require(name), suffix=suffix)
            try:
                snapshot = await run_in_pool(self._pool, table.snapshot, state)
                batches = snapshot.batches(left)
                while (batch := await run_in_pool(self._pool, next, batches, None)) is not None:
                    yield batch
                    attempts, left = 0, left.after_batch(batch)
                    if left is None:
                        return
                return
            except SnapshotExpired:
                attempts += 1
                if state is not None or attempts == READ_ATTEMPTS:
                    raise

    async def _merge(self, name: str, suffix: str, rows: Iterable[RecordRow]) -> tuple[int, int]:
        async with self._locks[name]:  # writers of this process take turns; those of other processes are met by retries
            table = self._table(name, uid=await self._require(name), suffix=suffix)
            counts = await run_in_pool(self._pool, table.merge_rows, rows)
        self.upkeep.written(name + suffix, table, num_rows=sum(counts))
        if counts[1]:
            await self._store.uncount_dataset(name)  # what was replaced may have named other media
        return counts

    async def _remove(self, name: str, *, uid: str, before: Check) -> None:
        # The row goes first: a crash before its tables are removed must not leave a dataset that lists versions whose
        # records are gone.
        if not await self._store.remove_dataset(name, before=before):
            raise not_found("DATASET", name)
        async with self.upkeep.turn:
            for suffix in ("", QUARANTINE):
                self.upkeep.forget(name + suffix)
                await run_in_pool(self._pool, self._objects.remove_table, _table_name(name) + suffix, uid=uid)
            self._caches = Caches.empty()  # Lance's own goes by paths and versions, which a new table may have again
        await run_in_pool(self._pool, self._objects.delete_below, f"{JOURNALS}{uid}/")

    async def _try_commit(self, name: str, table: RecordTable) -> DatasetVersion | None:
        snapshot = await run_in_pool(self._pool, table.snapshot)
        newest = await self._store.version(name, None)
        if newest is not None and await run_in_pool(self._pool, lambda: _equal(snapshot, table.snapshot(newest[1]))):
            return newest[2]
        number = await self._store.last_number(name) + 1
        counts = await run_in_pool(self._pool, snapshot.counts)
        version = DatasetVersion(name=f"{name}/versions/{number}", record_count=sum(counts.values()))
        version.subtask_counts.update(counts)
        version.create_time.CopyFrom(timestamp(now_us()))
        # Tag first, then row: a version that is listed can always be read, since tagged states are never cleaned up. If
        # another replica takes the number, its own tag protects its state, and this one is merely unused.
        await run_in_pool(self._pool, table.tag, f"v{number}-{snapshot.version}", version=snapshot.version)
        added = await self._store.add_version(name, version, number=number, state=snapshot.version)
        return version if added else None

    async def _version(self, name: str) -> tuple[int, DatasetVersion]:
        parts = parse(name, DATASET_VERSION)
        dataset = unversioned(name)
        await self._require(dataset)
        found = await self._store.version(dataset, version_number(parts["version"]))
        if found is None:
            raise version_not_found("DATASET_VERSION", name)
        return found[1], found[2]

    async def _require(self, name: str) -> str:
        """The uid of a dataset. Raises DATASET_NOT_FOUND."""
        parse(name, DATASET)
        uid = await self._store.dataset_uid(name)
        if uid is None:
            raise not_found("DATASET", name)
        return uid

    async def _counted(self, datasets: list[Dataset]) -> list[Dataset]:
        users = await self._uses.users([dataset.name for dataset in datasets])
        for dataset in datasets:
            dataset.users.extend(users.get(dataset.name, ()))
            table = self._table(dataset.name, uid=dataset.uid)
            if (head := await run_in_pool(self._pool, table.find)) is not None:
                dataset.record_count = await run_in_pool(self._pool, head.count)
        return datasets

    async def _answered(self, key: str, digest: str) -> Dataset | None:
        answered = await self._store.request(key) if key else None
        if answered is None:
            return None
        if answered[0] != digest:
            raise InvalidArgument(
                "The request id was already used for a different request: use a new one.", reason="REQUEST_ID_REUSED"
            )
        return await self.get(answered[1])

    def _table(self, name: str, *, uid: str, suffix: str = "") -> RecordTable:
        return RecordTable(
            self._objects.table(_table_name(name) + suffix, uid=uid),
            commit_retries=CommitRetries(self._config.commit_retries, self._config.commit_timeout_seconds),
            retention_seconds=self._config.retention_seconds,
            compact_fragments=self._config.compact_fragments,
            identity=f"{uid}{suffix}",
            caches=self._caches,
        )
