"""Group commit: writes that arrive while another one is under way go out together in the next.

A transaction, or a merge-insert, of 500 rows costs about as much as one of 50. So a write that comes right after
another one waits a moment for company; one that comes after a while starts at once, and so does one while nobody is at
work on anything that could join it.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Generic, TypeVar

from omnialign.retry import wait_for_event
from services.pipeline.kind import JobContext, Record

T = TypeVar("T")
Entry = tuple[Sequence[T], asyncio.Future[None]]

MAX_GROUP_RECORDS = 2048
PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.1, 1.0
"""Between two writes to one table: what a process that is killed loses at most of finished work, beside the write."""
PAUSES = 4
"""How many times as long as a write the pause after it is, within these bounds: each has costs of its own, which on S3
are most of it."""


class Makers:
    """Those who are at work on something that they are going to write."""

    def __init__(self) -> None:
        self._count = 0
        self._none = asyncio.Event()
        self._none.set()

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        """Counts one of them inside the block."""
        self._count += 1
        self._none.clear()
        try:
            yield
        finally:
            self._count -= 1
            if not self._count:
                self._none.set()

    async def wait_for_none(self, *, timeout_seconds: float) -> None:
        """Returns once there are none, or after so many seconds."""
        await wait_for_event(self._none, timeout_seconds=timeout_seconds)


class GroupCommitter(Generic[T]):
    """Joins concurrent writes into calls of `commit` with at most `limit` items, or one entry if that is larger.

    `commit` must be idempotent: after an error it is called again for each writer alone.
    """

    def __init__(
        self,
        commit: Callable[[Sequence[T]], Awaitable[None]],
        *,
        limit: int,
        makers: Makers,
        pause_seconds: float = 0.0,
    ) -> None:
        """Between the end of a write and the next one there are at least `pause_seconds`, and more after one that took
        long, while there are `makers`; with 0 there is no pause at all."""
        self._commit, self._limit, self._makers, self._pause_seconds = commit, limit, makers, pause_seconds
        self._free_at = 0.0
        self._waiting: list[Entry[T]] = []
        self._task: asyncio.Task[None] | None = None

    async def add(self, items: Sequence[T]) -> None:
        """Returns once the items are written; raises what their write raised."""
        if not items:
            return
        # The writer waits on a future of its own: cancelling it gives up the wait, not the write of the whole group.
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((items, future))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._drain())
        await future

    @property
    def is_idle(self) -> bool:
        """Whether nothing is being written, and nobody waits for it."""
        return self._task is None or self._task.done()

    async def close(self) -> None:
        """Stops writing; whoever waits for a write is cancelled."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for _, future in self._waiting:  # the task may not have started when it was cancelled
            future.cancel()

    async def _drain(self) -> None:
        # One group at a time: while it is written, those who come form the next one.
        clock, group = asyncio.get_running_loop().time, list[Entry[T]]()
        try:
            while self._waiting:
                if (seconds := self._free_at - clock()) > 0:
                    await self._makers.wait_for_none(timeout_seconds=seconds)
                group, begun = self._take(), clock()
                await self._write(group)
                self._free_at = clock() + self._pause_after(clock() - begun)
        except asyncio.CancelledError:
            for _, future in group + self._waiting:
                future.cancel()
            raise

    def _pause_after(self, write_seconds: float) -> float:
        if not self._pause_seconds:
            return 0.0
        return max(self._pause_seconds, min(PAUSES * write_seconds, LONGEST_PAUSE_SECONDS))

    def _take(self) -> list[Entry[T]]:
        """Removes the next group from the queue."""
        group: list[Entry[T]] = []
        count = 0
        while self._waiting and (not group or count + len(self._waiting[0][0]) <= self._limit):
            entry = self._waiting.pop(0)
            if not entry[1].cancelled():  # its writer was interrupted
                group.append(entry)
                count += len(entry[0])
        return group

    async def _write(self, group: list[Entry[T]]) -> None:
        if not group:
            return
        try:
            await self._commit([item for items, _ in group for item in items])
        except Exception as error:
            if len(group) > 1:  # one by one, so that only the writer of bad items hears of them
                for entry in group:
                    # The first of them may hear of it so late that its job has ended, and nobody waits for the others.
                    if not entry[1].done():
                        await self._write([entry])
            elif not group[0][1].done():
                group[0][1].set_exception(error)
        else:
            for _, future in group:
                if not future.done():
                    future.set_result(None)


Append = Callable[[JobContext, str, Sequence[Record]], Awaitable[None]]
"""Writes records of a job to the table of a name."""


class TableWriter:
    """Appends records to the tables of all jobs, joining concurrent writes to one table.

    `append` must be idempotent by record id.
    """

    def __init__(self, append: Append, makers: Makers) -> None:
        self._append, self._makers = append, makers
        self._tables: dict[tuple[str, str], GroupCommitter[Record]] = {}
        """By the uid of a job and the name of a table."""

    async def write(self, context: JobContext, name: str, records: Sequence[Record]) -> None:
        """Writes the records of a job to the table `name`; returns once they are stored."""
        key = (context.uid, name)
        if key not in self._tables:

            async def append(group: Sequence[Record]) -> None:
                await self._append(context, name, group)

            self._tables[key] = GroupCommitter(
                append, limit=MAX_GROUP_RECORDS, makers=self._makers, pause_seconds=PAUSE_SECONDS
            )
        await self._tables[key].add(records)

    def forget(self, uid: str) -> None:
        """Drops what is kept of a job that ended."""
        for key in [key for key, table in self._tables.items() if key[0] == uid and table.is_idle]:
            del self._tables[key]

    async def close(self) -> None:
        """Stops all writes; whoever waits for one is cancelled."""
        await asyncio.gather(*(table.close() for table in self._tables.values()))
        self._tables.clear()
