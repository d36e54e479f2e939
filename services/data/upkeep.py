"""Upkeep of tables: small files become larger ones, the index follows, and states that nobody needs are removed.

The work is done in steps behind the writers' backs, one at a time in a process. A step has an upper limit of memory,
and commits by itself: killed in the middle it leaves files that no state names. One that loses a race to a writer, or
to another replica, changes nothing, and is done after the next writes.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from math import inf
from typing import Any, Protocol

from lance.optimize import Compaction, CompactionOptions

from services.data.objects.base import run_in_pool
from services.data.row_index import INDEX, Filters, covered, make_filter, segments_of

FRAGMENT_ROWS, INDEXED_ROWS = 8 * 1024, 256 * 1024
"""Fragments with fewer rows are joined with their neighbours, outside the index and in it: so each row is copied about
twice in all. To join what is in the index has a segment of it written anew, and is done for many at once."""
FRAGMENT_BYTES = 512 * 1024 * 1024
"""Fragments are not joined into larger ones than this."""
BATCH_BYTES = 4 * 1024 * 1024
BUFFER_BYTES = 64 * 1024 * 1024
UNINDEXED_FRAGMENTS = 128
UNINDEXED_ROWS = 16 * 1024
"""Rows whose hashes are kept in memory instead: see `row_index`."""
GROWTH = 4
"""Segments of the index up to so many times as large as what is added are merged with it."""
WRITES = 8
"""Writes to a table after which it is looked at."""

_log = logging.getLogger(__name__)


class Table(Protocol):
    """A table that can be kept in order, as `record_table` has them."""

    def improve(self) -> bool:
        """Does one step of what is due; whether there may be more."""
        ...

    def clean(self) -> bool:
        """Removes what nobody needs; whether it could."""
        ...


def improve(dataset: Any, *, compact_fragments: int, filters: Filters) -> bool:
    """Does one step for a table that has more small fragments than this, rows outside the index, or segments without
    a filter; whether it did."""
    return _compact(dataset, compact_fragments) or _index(dataset) or make_filter(dataset, filters)


def _compact(dataset: Any, compact_fragments: int) -> bool:
    """Joins neighbouring small fragments. The first one stays as it is: see `record_table` on what it is for."""
    _, *others = [fragment.metadata for fragment in dataset.get_fragments()] or [None]
    num_bytes = sum(file.file_size_bytes or 0 for fragment in others for file in fragment.files)
    row_bytes = max(num_bytes // max(sum(fragment.physical_rows for fragment in others), 1), 1)
    unindexed = _unindexed(dataset)
    # What is about to be indexed is joined before, as far as there are more than writers add meanwhile.
    outside = compact_fragments // 8 if _is_index_due(unindexed) else compact_fragments
    for most, is_indexed, bound in ((FRAGMENT_ROWS, False, outside), (INDEXED_ROWS, True, compact_fragments)):
        rows = min(most, FRAGMENT_BYTES // row_bytes)
        small = {one.id for one in others if one.num_rows < rows and (one.id not in unindexed) == is_indexed}
        if len(small) > bound and _join(dataset, small, rows=rows, row_bytes=row_bytes):
            return True
    return False


def _join(dataset: Any, small: set[int], *, rows: int, row_bytes: int) -> bool:
    """Joins neighbours among these fragments to ones of so many rows; whether there were any."""
    options: CompactionOptions = {
        "target_rows_per_fragment": rows,
        "excluded_fragment_ids": [one.fragment_id for one in dataset.get_fragments() if one.fragment_id not in small],
        "num_threads": 1,
        "batch_size": max(1, min(1024, BATCH_BYTES // row_bytes)),
        "io_buffer_size": BUFFER_BYTES,
        "compaction_mode": "try_binary_copy",
        "binary_copy_read_batch_bytes": BATCH_BYTES,
    }
    plan = Compaction.plan(dataset, options)
    if not plan.num_tasks():
        return False
    Compaction.commit(dataset, [plan.tasks[0].execute(dataset)], options)
    return True


def _index(dataset: Any) -> bool:
    """Adds to the index what is outside it: a segment of its own, into which those of a similar size are merged.

    So every row is indexed again a few times in all, and the segments are few.
    """
    unindexed, segments = _unindexed(dataset), segments_of(dataset)
    if not _is_index_due(unindexed):
        return False
    if not segments:
        dataset.create_scalar_index(INDEX, "BTREE", name=INDEX)
        return True
    rows = {fragment.fragment_id: fragment.metadata.num_rows for fragment in dataset.get_fragments()}
    merged, total = 0, sum(unindexed.values())
    for segment in reversed(segments):
        size = sum(rows.get(number, 0) for number in segment.fragment_ids)
        if size > GROWTH * total:
            break
        merged, total = merged + 1, total + size
    dataset.optimize.optimize_indices(index_names=[INDEX], num_indices_to_merge=merged)
    return True


def _unindexed(dataset: Any) -> dict[int, int]:
    """The rows of each fragment that is outside the index."""
    indexed = covered(segments_of(dataset))
    others = (one for one in dataset.get_fragments() if one.fragment_id not in indexed)
    return {one.fragment_id: one.metadata.num_rows for one in others}


def _is_index_due(unindexed: Mapping[int, int]) -> bool:
    return len(unindexed) > UNINDEXED_FRAGMENTS or sum(unindexed.values()) > UNINDEXED_ROWS


class Upkeep:
    """Keeps the tables of a service in order, one step at a time."""

    def __init__(self, *, pool: ThreadPoolExecutor, writes: int, clean_seconds: float) -> None:
        """So many `writes` to a table make it due; its old states are removed at most once in `clean_seconds`."""
        self._pool, self._writes, self._clean_seconds = pool, min(writes, WRITES), clean_seconds
        self._seen: dict[str, int] = {}
        self._cleaned: dict[str, float] = {}
        self._due: dict[str, Table] = {}
        self._wake = asyncio.Event()
        self.turn = asyncio.Lock()
        """Held during a step: whoever has it knows that no table is being worked at."""

    def written(self, name: str, table: Table, *, num_rows: int) -> None:
        """Counts a write to a table, which makes it due every so often."""
        self._seen[name] = self._seen.get(name, 0) + 1 + num_rows * self._writes // FRAGMENT_ROWS
        if self._seen[name] >= self._writes:
            del self._seen[name]
            self._due[name] = table
            self._wake.set()

    def forget(self, name: str) -> None:
        """Drops what is due at a table that is removed, for whoever has the turn."""
        for kept in (self._seen, self._due, self._cleaned):
            kept.pop(name, None)

    async def settle(self) -> None:
        """Does what is due, and returns when nothing is."""
        while self._due:
            name, table = next(iter(self._due.items()))
            async with self.turn:
                if self._due.get(name) is not table:  # forgotten, or written again
                    continue
                is_improved = await self._attempt(name, table.improve)
                if not is_improved and time.monotonic() - self._cleaned.get(name, -inf) >= self._clean_seconds:
                    await self._attempt(name, table.clean)
                    self._cleaned[name] = time.monotonic()
            if self._due.get(name) is table:  # not written meanwhile
                del self._due[name]
                if is_improved:
                    self._due[name] = table  # behind the others
        self._wake.clear()

    async def _attempt(self, name: str, step: Callable[[], bool]) -> bool:
        try:
            return await run_in_pool(self._pool, step)
        except Exception as error:
            _log.warning("the table %s cannot be kept in order now: %s", name, error)
            return False

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Does what is due inside the `with` block. On exit, a step that has begun is left to end in its thread."""
        task = asyncio.create_task(self._run(), name="upkeep")
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            await self.settle()
