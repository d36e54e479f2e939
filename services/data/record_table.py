"""One Lance table of records: merge by id, tags, upkeep. Everything here blocks.

A merge looks up the ids in the index, writes one fragment of what is new or other, and commits it: its cost does not
grow with the table. Two writers that insert one id at once must not both succeed. So each merge also names the table's
first fragment, unchanged, as one that it updates, and Lance refuses the later of two commits that update one. The
first fragment can itself only be replaced by a commit that updates it, so all writers agree on it. While there is none
yet, a commit replaces the whole state, which Lance does only if nobody else has committed.
"""

import random
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import lance
import pyarrow as pa
import pyarrow.compute as pc
from lance.commit import CommitConflictError
from lance.fragment import write_fragments

from omnialign.v1 import record_pb2
from services.data import upkeep
from services.data.errors import translate_table_errors
from services.data.objects.base import TableLocation
from services.data.record_rows import SCHEMA, RecordRow, id_hash, row_of, to_arrow
from services.data.row_index import ADDRESS, find, take
from services.data.snapshot import Caches, Snapshot, expired

FOUND_AT_ONCE = 512
"""Rows whose stored records are in memory at once during a merge."""
LONGEST_PAUSE_SECONDS = 0.5
Choose = Callable[[Sequence[str]], Iterable[str]]
"""Chooses some of several ids."""


@dataclass(frozen=True)
class CommitRetries:
    """How often and how long a commit that loses races is retried."""

    max_retries: int
    timeout_seconds: float


@dataclass
class Draft:
    """What a merge would write, kept between attempts: the fragments are the same if the rows are."""

    rows: pa.Table
    chosen: list[bool] = field(default_factory=list)
    fragments: list[Any] = field(default_factory=list)

    def write(self, dataset: Any, chosen: list[bool]) -> list[Any]:
        """The fragments with the chosen rows. They belong to the table once they are committed."""
        if chosen != self.chosen:
            rows = self.rows.select(dataset.schema.names).filter(pa.array(chosen))
            self.chosen, self.fragments = chosen, write_fragments(rows, dataset)
        return self.fragments


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
        caches: Caches | None = None,
    ) -> None:
        """`identity` as of `Snapshot`."""
        self.place = place if isinstance(place, TableLocation) else TableLocation.of_folder(place)
        self._commit_retries = commit_retries
        self._retention = timedelta(seconds=retention_seconds)
        self._compact_fragments = compact_fragments
        self._identity, self._caches = identity, caches or Caches.empty()

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
        """`merge_rows` of records."""
        return self.merge_rows(map(row_of, records))

    def merge_rows(self, records: Iterable[RecordRow]) -> tuple[int, int]:
        """Inserts or updates records by id, all visible together; returns the numbers of new and of existing records.

        Of several records with one id, the last counts. A record that is stored unchanged is not written again. Raises
        COMMIT_CONFLICT when all retries are lost, STORAGE_FULL.
        """
        rows = to_arrow(records)
        if not rows.num_rows:
            return 0, 0
        draft = Draft(rows)
        with translate_table_errors(self.place.uri):
            inserted = self._retried(lambda: self._merge(draft))
        return inserted, rows.num_rows - inserted

    def delete(self, ids: Sequence[str]) -> None:
        """Removes rows by id."""
        dataset = self._open()
        hashes = pa.array([id_hash(name) for name in ids], pa.int64())
        condition = pc.field("hash").isin(hashes) & pc.field("id").isin(pa.array(list(ids), pa.string()))
        with translate_table_errors(self.place.uri):
            if ids and dataset.scanner(columns=["id"], filter=condition).count_rows():
                dataset.delete(condition, conflict_retries=self._commit_retries.max_retries)

    def delete_where(self, stale_of: Choose) -> int:
        """Removes the rows whose ids are chosen; returns their number."""
        with expired(self.place.uri):
            batches = self._open().scanner(columns=["id"]).to_batches()
            stale = [name for batch in batches for name in stale_of(batch["id"].to_pylist())]
        for start in range(0, len(stale), FOUND_AT_ONCE):
            self.delete(stale[start : start + FOUND_AT_ONCE])
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

    def untag(self, name: str) -> None:
        """Removes a tag, so that its state may be cleaned up. Succeeds if there is none."""
        dataset = self._open()
        with translate_table_errors(self.place.uri):
            if name in dataset.tags.list():
                dataset.tags.delete(name)

    def improve(self) -> bool:
        """Does one step of the upkeep that is due; whether there may be more. A lost race is none."""
        try:
            dataset, filters = self._connect(None), self._caches.filters
            return upkeep.improve(dataset, compact_fragments=self._compact_fragments, filters=filters)
        except (OSError, RuntimeError, ValueError):
            return False

    def clean(self) -> bool:
        """Removes the states that are older than the retention and have no tag; whether it could."""
        try:
            self._connect(None).cleanup_old_versions(older_than=self._retention, error_if_tagged_old_versions=False)
        except (OSError, RuntimeError, ValueError):
            return False
        return True

    def _snapshot(self, dataset: Any) -> Snapshot:
        return Snapshot(dataset, identity=self._identity, caches=self._caches)

    def _retried(self, attempt: Callable[[], int]) -> int:
        """Starts over from the new state if another writer came first, or compacted away a file in the meantime."""
        deadline = time.monotonic() + self._commit_retries.timeout_seconds
        for number in range(self._commit_retries.max_retries):
            try:
                return attempt()
            except OSError as error:
                is_lost = isinstance(error, CommitConflictError) or "not found" in str(error).lower()
                if not is_lost or time.monotonic() > deadline:
                    raise
            # Writers that lost at the same time come again at different times.
            time.sleep(random.uniform(0, min(0.005 * 2**number, LONGEST_PAUSE_SECONDS)))
        return attempt()

    def _merge(self, draft: Draft) -> int:
        """One attempt; the number of new rows."""
        dataset = self._open()
        fragments = dataset.get_fragments()
        if not fragments:
            return self._merge_first(dataset, draft)
        ids = draft.rows["id"].to_pylist()
        existing, outdated = set[str](), dict[str, int]()
        for found, rows in self._stored(dataset, draft.rows, ids):
            existing.update(found)
            outdated.update(rows)
        chosen = [name in outdated or name not in existing for name in ids]
        if any(chosen):
            new = draft.write(dataset, chosen)
            removed, updated = _without(dataset, outdated.values())
            if fragments[0].fragment_id not in {*removed, *(fragment.id for fragment in updated)}:
                updated.append(fragments[0].metadata)
            operation = lance.LanceOperation.Update(removed, updated, new, update_mode="rewrite_rows")
            committed = lance.LanceDataset.commit(dataset, operation, read_version=dataset.version)
            if len(new) == 1:  # the next reads and merges look there
                self._caches.hashes.put_last(committed, draft.rows["hash"].to_numpy()[chosen])
        return len(ids) - len(existing)

    def _stored(self, dataset: Any, rows: pa.Table, ids: Sequence[str]) -> Iterator[tuple[list[str], dict[str, int]]]:
        """Which of the `ids` of `rows` exist, in parts, and the addresses of those whose records are others."""
        # Looked up together: each look reads most pages of the index, whose order is that of hashes.
        addresses = find(dataset, rows["hash"].to_numpy(), self._caches.hashes, self._caches.filters)
        wanted = {name: place for place, name in enumerate(ids)} if addresses else {}
        for start in range(0, len(addresses), FOUND_AT_ONCE):
            columns = take(dataset, addresses[start : start + FOUND_AT_ONCE], ["id", "record", ADDRESS])
            stored = [
                row for row in zip(*(one.to_pylist() for one in columns.columns), strict=True) if row[0] in wanted
            ]
            yield (
                [name for name, _, _ in stored],
                {name: address for name, record, address in stored if record != rows["record"][wanted[name]].as_py()},
            )

    def _merge_first(self, dataset: Any, draft: Draft) -> int:
        """Gives a table without rows its first. Without retries, Lance replaces no state but the one it was given."""
        operation = lance.LanceOperation.Overwrite(dataset.schema, draft.write(dataset, [True] * draft.rows.num_rows))
        lance.LanceDataset.commit(dataset, operation, read_version=dataset.version, max_retries=0)
        return int(draft.rows.num_rows)

    def _open(self, version: int | None = None) -> Any:
        with expired(self.place.uri):
            try:
                return self._connect(version)
            except FileNotFoundError:
                self._create()
                return self._connect(version)

    def _connect(self, version: int | None) -> Any:
        """Raises FileNotFoundError if there is no table at all."""
        place, options = self.place, dict(self.place.options) or None
        if place.folder is not None and not (place.folder / "_versions").exists():
            raise FileNotFoundError(place.uri)
        try:
            with translate_table_errors(self.place.uri):
                return lance.dataset(place.uri, version=version, storage_options=options, session=self._caches.session)
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


def _without(dataset: Any, addresses: Iterable[int]) -> tuple[list[int], list[Any]]:
    """What becomes of the fragments if these rows go: those that have none left, and the others that change."""
    offsets: dict[int, list[int]] = {}
    for address in addresses:
        offsets.setdefault(address >> 32, []).append(address & 0xFFFFFFFF)
    changed = {number: dataset.get_fragment(number).delete_rows(rows) for number, rows in offsets.items()}
    removed = [number for number, fragment in changed.items() if fragment is None]
    return removed, [fragment for fragment in changed.values() if fragment is not None]
