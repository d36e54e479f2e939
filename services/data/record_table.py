"""One Lance table of records: merge by id, ordered reads of a snapshot, tags, compaction. Everything here blocks.

The id is declared as Lance's unenforced primary key: without it, two writers of the same new id would both insert it.
Filters are computed on the narrow columns in Arrow and never written into a filter string, so no value can inject a
condition. A read holds the narrow columns of the selected rows and one batch of records, however large the table is.
"""

import hashlib
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from omnialign.errors import Aborted
from omnialign.v1 import record_pb2
from services.data.errors import translate_table_errors
from services.data.objects.base import TableLocation
from services.data.selection import MAX_ROWS, NARROW, ROW, Indexes, Selection, mask, positions

BATCH_BYTES = 900 * 1024
BATCH_ROWS = 1024
SCAN_ROWS = 16_384
STALE_ATTEMPTS = 4

SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False, metadata={"lance-schema:unenforced-primary-key": "true"}),
        pa.field("subtask", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("hash", pa.int64(), nullable=False),
        pa.field("fingerprint", pa.int64(), nullable=False),
        pa.field("size", pa.int64(), nullable=False),
        pa.field("record", pa.binary(), nullable=False),
    ]
)
NO_ROWS = pa.schema([*(pa.field(name, SCHEMA.field(name).type) for name in NARROW), (ROW, pa.int64())]).empty_table()


@dataclass(frozen=True)
class CommitRetries:
    """How often and how long a commit that loses races is retried."""

    max_retries: int
    timeout_seconds: float


class SnapshotExpired(Aborted):
    """The state of a table was cleaned up while it was read."""


class Snapshot:
    """A table as it was at one moment; later writes do not change it."""

    def __init__(self, dataset: Any, *, identity: str = "", indexes: Indexes | None = None) -> None:
        """With `indexes`, `identity` tells the table from an earlier one at the same place."""
        self._dataset, self._identity, self._indexes = dataset, identity, indexes

    @property
    def version(self) -> int:
        """Lance's number for this state."""
        return int(self._dataset.version)

    def count(self) -> int:
        """Number of records."""
        with translate_table_errors(self._dataset.uri):
            return int(self._dataset.count_rows())

    def counts(self) -> dict[str, int]:
        """Number of records per subtask."""
        found: dict[str, int] = {}
        with _expired(self._dataset.uri):
            for batch in self._dataset.scanner(columns=["subtask"]).to_batches():
                for entry in pc.value_counts(batch.column(0)).to_pylist():
                    found[entry["values"]] = found.get(entry["values"], 0) + entry["counts"]
        return found

    def batches(self, selection: Selection) -> Iterator[list[record_pb2.Record]]:
        """The selected records in order of id, in batches of less than 1 MiB."""
        rows, sizes = positions(self._index(selection), selection)
        for start, end in _spans(sizes):
            with _expired(self._dataset.uri):
                taken = self._dataset.take(rows[start:end].tolist(), columns=["record"])
            yield [record_pb2.Record.FromString(value.as_py()) for value in taken.column("record")]

    def states(self) -> pa.Table:
        """Of each record, the hash of its id and that of its bytes: see `state`."""
        with _expired(self._dataset.uri):
            return self._dataset.to_table(columns=["hash", "fingerprint"])

    def fingerprint(self) -> tuple[int, int]:
        """The number of records, and a checksum of them that does not depend on their order.

        Compaction reorders rows and changes Lance's version number, so neither tells whether the records are the same.
        """
        total = 0
        with _expired(self._dataset.uri):
            for batch in self._dataset.scanner(columns=["fingerprint"]).to_batches():
                total += sum(batch.column(0).to_pylist())
        return self.count(), total

    def _index(self, selection: Selection) -> pa.Table:
        """The narrow columns in order of id: of all rows if they are kept, else at least of the selected ones."""
        with _expired(self._dataset.uri):
            is_kept = self._indexes is not None and self._dataset.count_rows() <= MAX_ROWS
        if self._indexes is None or not is_kept:
            return self._scan(selection).sort_by("id")
        return self._indexes.get((self._identity, self.version), lambda: self._scan(Selection()))

    def _scan(self, selection: Selection) -> pa.Table:
        """The narrow columns with the positions of the rows, which are only known by scanning in order."""
        position, parts = 0, [NO_ROWS]
        with _expired(self._dataset.uri):
            for batch in self._dataset.scanner(columns=NARROW, batch_size=SCAN_ROWS, scan_in_order=True).to_batches():
                rows = pa.array(np.arange(position, position + batch.num_rows))
                position += batch.num_rows
                part = pa.table([*(batch[name] for name in NARROW), rows], schema=NO_ROWS.schema)
                parts.append(part.filter(pa.array(mask(part, selection))))
        return pa.concat_tables(parts)


class RecordTable:
    """The table at a location. Safe for concurrent threads and processes."""

    def __init__(
        self,
        place: TableLocation | Path,
        *,
        commit_retries: CommitRetries,
        retention_seconds: float,
        compact_fragments: int,
        identity: str = "",
        indexes: Indexes | None = None,
    ) -> None:
        """`identity` as of `Snapshot`."""
        self.place = place if isinstance(place, TableLocation) else TableLocation.of_folder(place)
        self._commit_retries = commit_retries
        self._retention = timedelta(seconds=retention_seconds)
        self._compact_fragments = compact_fragments
        self._identity, self._indexes = identity, indexes

    def snapshot(self, version: int | None = None) -> Snapshot:
        """The table now, or at a version. A missing table is created."""
        return self._snapshot(self._open(version))

    def find(self) -> Snapshot | None:
        """The table now; None if nothing was ever written here."""
        try:
            return self._snapshot(self._connect(None))
        except FileNotFoundError:
            return None

    def merge(self, records: Iterable[record_pb2.Record]) -> tuple[int, int]:
        """Inserts or updates records by id, all visible together; returns the numbers of new and of existing records.

        Of several records with one id, the last counts. A record that is stored unchanged is not written again. Raises
        COMMIT_CONFLICT when all retries are lost, STORAGE_FULL.
        """
        rows = to_arrow(records)
        if not rows.num_rows:
            return 0, 0
        with translate_table_errors(self.place.uri):
            stats = self._merge_with_retries(rows)
        inserted = int(stats["num_inserted_rows"])
        return inserted, rows.num_rows - inserted

    def delete(self, ids: Sequence[str]) -> None:
        """Removes rows by id. Only for ids that this service generated, since they go into a filter string."""
        assert all(name.replace("-", "").isalnum() for name in ids)
        dataset = self._open()
        condition = f"id IN ({', '.join(repr(name) for name in ids)})"
        with translate_table_errors(self.place.uri):
            if ids and dataset.count_rows(filter=condition):
                dataset.delete(condition)

    def delete_where(self, is_stale: Callable[[str], bool]) -> int:
        """Removes the rows whose ids are stale, which must be ids that this service generated; returns their number."""
        with _expired(self.place.uri):
            batches = self._open().scanner(columns=["id"]).to_batches()
            stale = [name for batch in batches for name in batch["id"].to_pylist() if is_stale(name)]
        for start in range(0, len(stale), BATCH_ROWS):
            self.delete(stale[start : start + BATCH_ROWS])
        return len(stale)

    def tag(self, name: str, *, version: int) -> None:
        """Tags a state, which protects it from cleanup. Succeeds if the tag exists: it names its state already."""
        dataset = self._open()
        with translate_table_errors(self.place.uri):
            try:
                dataset.tags.create(name, version)
            except ValueError as error:
                if "already exists" not in str(error):
                    raise

    def compact(self) -> bool:
        """Compacts a table that has too many fragments, and removes old untagged states; whether it was due."""
        dataset = self._open()
        if len(dataset.get_fragments()) <= self._compact_fragments:
            return False
        with suppress(OSError, RuntimeError, ValueError):  # lost a race with a writer: the next write tries again
            dataset.optimize.compact_files()
            dataset.cleanup_old_versions(older_than=self._retention, error_if_tagged_old_versions=False)
        return True

    def _snapshot(self, dataset: Any) -> Snapshot:
        return Snapshot(dataset, identity=self._identity, indexes=self._indexes)

    def _merge_with_retries(self, rows: pa.Table) -> dict[str, int]:
        """Merges, and starts over from the new state if another process compacted away a file in the meantime.

        Lance itself retries commits that lose a race, within `commit_retries`.
        """
        for _ in range(STALE_ATTEMPTS - 1):
            try:
                return self._merge(rows)
            except OSError as error:
                if "not found" not in str(error).lower():
                    raise
        return self._merge(rows)

    def _merge(self, rows: pa.Table) -> dict[str, int]:
        # The primary key makes two concurrent inserts of one id conflict: Lance retries the later one, which then finds
        # the row and updates it. Rows whose bytes are equal are not rewritten, so a repeated append costs nothing.
        merge = self._open().merge_insert("id").when_matched_update_all("target.record != source.record")
        merge = merge.when_not_matched_insert_all().conflict_retries(self._commit_retries.max_retries)
        stats: dict[str, int] = merge.retry_timeout(timedelta(seconds=self._commit_retries.timeout_seconds)).execute(
            rows
        )
        return stats

    def _open(self, version: int | None = None) -> Any:
        with _expired(self.place.uri):
            try:
                return self._connect(version)
            except FileNotFoundError:
                self._create()
                return self._connect(version)

    def _connect(self, version: int | None) -> Any:
        """Raises FileNotFoundError if there is no table at all."""
        place = self.place
        if place.folder is not None and not (place.folder / "_versions").exists():
            raise FileNotFoundError(place.uri)
        try:
            with translate_table_errors(self.place.uri):
                return lance.dataset(place.uri, version=version, storage_options=dict(place.options) or None)
        except ValueError as error:
            if place.folder is None and version is None and "was not found" in str(error):
                raise FileNotFoundError(place.uri) from None
            raise

    def _create(self) -> None:
        """Builds the empty table elsewhere and publishes it, in which only one of several creators succeeds.

        Created in place by two processes at once, the table of the second could overwrite the first one's records.
        """
        self.place.scratch.mkdir(parents=True, exist_ok=True)
        with (
            translate_table_errors(self.place.uri),
            tempfile.TemporaryDirectory(dir=self.place.scratch, prefix=".creating-") as scratch,
        ):
            empty = Path(scratch) / "table"
            lance.write_dataset(SCHEMA.empty_table(), str(empty), mode="create")
            self.place.publish(empty)


def to_arrow(records: Iterable[record_pb2.Record]) -> pa.Table:
    """The records as rows; of several with one id, the last counts. Equal records have equal bytes."""
    latest = {record.id: record for record in records}
    blobs = [record.SerializeToString(deterministic=True) for record in latest.values()]
    columns = {
        "id": list(latest),
        "subtask": [record.subtask for record in latest.values()],
        "split": [record.split for record in latest.values()],
        "hash": [shard_hash(name) for name in latest],
        "fingerprint": [_number(blob) for blob in blobs],
        "size": [len(blob) for blob in blobs],
        "record": blobs,
    }
    return pa.table(columns, schema=SCHEMA)


def shard_hash(record_id: str) -> int:
    """A number from 0 to 2^63 - 1 that decides the shard of an id, the same on every machine."""
    return _number(record_id.encode())


def state(record: record_pb2.Record) -> tuple[int, int]:
    """What tells a record, unchanged, in a table: the hash of its id, and that of its bytes."""
    return shard_hash(record.id), _number(record.SerializeToString(deterministic=True))


def _number(data: bytes) -> int:
    return int.from_bytes(hashlib.sha256(data).digest()[:8], "big") >> 1


def _spans(sizes: Any) -> Iterator[tuple[int, int]]:
    """Ranges of rows for batches of at most `BATCH_BYTES`; a larger row is a batch of its own."""
    start, total = 0, 0
    for index, size in enumerate(sizes):
        if index > start and (total + size > BATCH_BYTES or index - start >= BATCH_ROWS):
            yield start, index
            start, total = index, 0
        total += int(size)
    if start < len(sizes):
        yield start, len(sizes)


@contextmanager
def _expired(uri: str) -> Iterator[None]:
    """Turns "file not found" into SnapshotExpired: the state was cleaned up while it was read."""
    try:
        with translate_table_errors(uri):
            yield
    except (OSError, ValueError) as error:
        if "not found" not in str(error).lower():
            raise
        message = "The records were rewritten again and again while they were read: read a committed version."
        raise SnapshotExpired(message, reason="SNAPSHOT_EXPIRED") from error
