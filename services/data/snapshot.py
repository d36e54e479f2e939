"""The state of a table at one moment: counts, records by id, and records in order of id. Everything here blocks.

Records are found by the hash of their ids (see `row_index`), and whatever else they are selected by is compared in
Arrow or Python: no value of a caller ever gets into a condition. A read holds one window and one batch of records,
however large the table is.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from lance.lance import _Session as Session

from omnialign.errors import Aborted
from services.data.errors import translate_table_errors
from services.data.record_rows import id_hash
from services.data.row_index import ADDRESS, Filters, Hashes, find, take
from services.data.selection import NARROW, NO_ROWS, ROW, Selection, Window, Windows, first_window, mask
from services.data.stored_records import StoredRecords

BATCH_BYTES = 900 * 1024
BATCH_ROWS = 1024
SCAN_ROWS = 16_384
STORED = ("record", "media")
"""The columns that are read of a selected record."""
CACHE_BYTES = 4 * 1024 * 1024


class SnapshotExpired(Aborted):
    """The state of a table was cleaned up while it was read."""


@dataclass
class Caches:
    """What all tables of a service keep in memory: bounded by bytes, whatever their number and size."""

    windows: Windows
    hashes: Hashes
    filters: Filters
    session: Session
    """Lance's cache of files' metadata and of pages of the indexes."""

    @classmethod
    def empty(cls) -> "Caches":
        """Caches with nothing in them."""
        session = Session(index_cache_size_bytes=CACHE_BYTES, metadata_cache_size_bytes=CACHE_BYTES)
        return cls(Windows(), Hashes(), Filters(), session)


class Snapshot:
    """A table as it was at one moment; later writes do not change it."""

    def __init__(self, dataset: Any, *, identity: str, caches: Caches) -> None:
        """`identity` tells the table from an earlier one at the same place."""
        self._dataset, self._identity, self._caches = dataset, identity, caches

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
        with expired(self._dataset.uri):
            for batch in self._dataset.scanner(columns=["subtask"]).to_batches():
                for entry in pc.value_counts(batch.column(0)).to_pylist():
                    found[entry["values"]] = found.get(entry["values"], 0) + entry["counts"]
        return found

    def fingerprint(self) -> tuple[int, int]:
        """The number of records, and a checksum of them that does not depend on their order.

        Compaction reorders rows and changes Lance's version number, so neither tells whether the records are the same.
        """
        total = 0
        with expired(self._dataset.uri):
            for batch in self._dataset.scanner(columns=["fingerprint"]).to_batches():
                total += sum(batch.column(0).to_pylist())
        return self.count(), total

    def states(self) -> pa.Table:
        """Of each record, `hash` and `fingerprint` of its `RecordRow`."""
        with expired(self._dataset.uri):
            return self._dataset.to_table(columns=["hash", "fingerprint"])

    def batches(self, selection: Selection) -> Iterator[StoredRecords]:
        """The selected records in order of id, in batches of less than 1 MiB."""
        return self._named(selection) if selection.ids else self._ordered(selection)

    def _named(self, selection: Selection) -> Iterator[StoredRecords]:
        """The records with the ids of the selection."""
        with expired(self._dataset.uri):
            # All together: each look reads most pages of the index, whose order is that of hashes.
            addresses = find(self._dataset, [id_hash(name) for name in set(selection.ids)], self._caches.hashes)
            if not addresses:
                return
            rows = take(self._dataset, addresses, [*NARROW, ADDRESS])
        rows = rows.filter(pa.array(mask(rows, selection))).sort_by("id")
        rows = rows.slice(0, selection.limit) if selection.limit else rows
        places = rows[ADDRESS].to_pylist()
        for first, end in _spans(rows["size"].to_pylist()):
            with expired(self._dataset.uri):
                some = take(self._dataset, places[first:end], ["id", *self._columns]).sort_by("id")
            yield _stored(some, some["id"])

    def _ordered(self, selection: Selection) -> Iterator[StoredRecords]:
        """The selected records of one window after another. The limit is heeded, so that none is read in vain."""
        place, left, state = selection.place, selection.limit, (self._identity, self.version, *selection.condition)
        while True:
            window = self._caches.windows.get(state, place, lambda: self._window(selection, place))  # noqa: B023
            rows = window.since(place)
            rows = rows.slice(0, left) if left else rows
            positions = rows[ROW].to_numpy()
            for first, end in _spans(rows["size"].to_pylist()):
                with expired(self._dataset.uri):
                    taken = self._dataset.take(positions[first:end].tolist(), columns=self._columns)
                yield _stored(taken, rows["id"].slice(first, end - first))
            left -= min(left, rows.num_rows)
            if window.is_last or (selection.limit and not left):
                return
            place = window.end, 1

    @property
    def _columns(self) -> list[str]:
        """The columns of stored records."""
        return [name for name in STORED if name in self._dataset.schema.names]

    def _window(self, selection: Selection, place: tuple[str, int]) -> Window:
        start, after = ("", place[0]) if place[1] else (place[0], "")
        with expired(self._dataset.uri):
            return first_window(self._scan(replace(selection, start=start, after=after)), place)

    def _scan(self, selection: Selection) -> Iterator[pa.Table]:
        """The narrow columns with the positions of the rows, which are only known by scanning in order."""
        position = 0
        for batch in self._dataset.scanner(columns=NARROW, batch_size=SCAN_ROWS, scan_in_order=True).to_batches():
            rows = pa.array(np.arange(position, position + batch.num_rows))
            position += batch.num_rows
            part = pa.table([*(batch[name] for name in NARROW), rows], schema=NO_ROWS.schema)
            yield part.filter(pa.array(mask(part, selection)))


@contextmanager
def expired(uri: str) -> Iterator[None]:
    """Turns "file not found" into SnapshotExpired: the state was cleaned up while it was read."""
    try:
        with translate_table_errors(uri):
            yield
    except (OSError, ValueError) as error:
        if "not found" not in str(error).lower():
            raise
        message = "The records were rewritten again and again while they were read: read a committed version."
        raise SnapshotExpired(message, reason="SNAPSHOT_EXPIRED") from error


def _stored(rows: pa.Table, ids: pa.ChunkedArray) -> StoredRecords:
    digests = rows["media"].to_pylist() if "media" in rows.schema.names else [None] * rows.num_rows
    return StoredRecords(rows["record"].to_pylist(), digests, ids[-1].as_py())


def _spans(sizes: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Ranges of rows for batches of at most `BATCH_BYTES`; a larger row is a batch of its own."""
    start, total = 0, 0
    for index, size in enumerate(sizes):
        if index > start and (total + size > BATCH_BYTES or index - start >= BATCH_ROWS):
            yield start, index
            start, total = index, 0
        total += size
    if start < len(sizes):
        yield start, len(sizes)
