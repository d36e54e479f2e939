"""Upkeep of tables: small files become larger ones, the index follows, and states that nobody needs are removed.

The work is done in steps behind the writers' backs, one at a time in a process. A step has an upper limit of memory,
and commits by itself: killed in the middle it leaves files that no state names. One that loses a race to a writer, or
to another replica, changes nothing, and is done after the next writes.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from math import inf
from typing import Any, Protocol

from lance.optimize import Compaction, CompactionOptions

from services.data.objects.base import run_in_pool
from services.data.row_index import INDEX, Filters, make_filter

FRAGMENT_ROWS = 32 * 1024
"""Fragments with fewer rows are joined with their neighbours, so that each row is copied a few times in all."""
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
    first, *others = [fragment.metadata for fragment in dataset.get_fragments()] or [None]
    if sum(fragment.num_rows < FRAGMENT_ROWS for fragment in others) <= compact_fragments:
        return False
    num_bytes = sum(file.file_size_bytes or 0 for fragment in others for file in fragment.files)
    row_bytes = num_bytes // max(sum(fragment.physical_rows for fragment in others), 1)
    options: CompactionOptions = {
        "target_rows_per_fragment": FRAGMENT_ROWS,
        "excluded_fragment_ids": [first.id],
        "num_threads": 1,
        "batch_size": max(1, min(1024, BATCH_BYTES // max(row_bytes, 1))),
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
    rows = {fragment.fragment_id: fragment.metadata.num_rows for fragment in dataset.get_fragments()}
    index = next((index for index in dataset.describe_indices() if index.name == INDEX), None)
    segments = [[rows.pop(number, 0) for number in one.fragment_ids] for one in index.segments] if index else []
    if len(rows) <= UNINDEXED_FRAGMENTS and sum(rows.values()) <= UNINDEXED_ROWS:
        return False
    if index is None:
        dataset.create_scalar_index(INDEX, "BTREE", name=INDEX)
        return True
    merged, total = 0, sum(rows.values())
    for segment in reversed(segments):
        if sum(segment) > GROWTH * total:
            break
        merged, total = merged + 1, total + sum(segment)
    dataset.optimize.optimize_indices(index_names=[INDEX], num_indices_to_merge=merged)
    return True


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
