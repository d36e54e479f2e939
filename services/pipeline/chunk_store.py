"""Persistence of chunks: which records they hold, which of their steps are committed, and what came of them.

A step's row is written only after its records are stored. So a row with counts proves that the step is done, and a
chunk that is taken up again skips it; a crash between the two makes the step run again over records that are there.
"""

from collections import Counter
from collections.abc import AsyncIterable, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from google.rpc import status_pb2
from sqlalchemy import Connection

from omnialign.errors import OmnialignError, from_status, to_status
from services.pipeline.chunk_totals import ChunkTotals
from services.pipeline.counts import Counts
from services.pipeline.kind import JobKind
from services.pipeline.notifier import Notifier
from services.pipeline.schema import lock_job, tables
from services.runtime.database import Database

PAGE_CHUNKS = 64
"""Chunks that are stored in one transaction."""


@dataclass(frozen=True)
class ChunkState:
    """What is known of a chunk when it is taken up."""

    record_ids: tuple[str, ...]
    committed: frozenset[str]
    """Names of the steps that are done."""
    is_repeated: bool
    """Whether an earlier attempt may have stored records of a step that is not committed."""


@dataclass(frozen=True)
class Planned:
    """How much work a phase has."""

    records: int
    chunks: int


@dataclass(frozen=True)
class StepCommit:
    """What a step made of a chunk."""

    uid: str
    phase: str
    step: str
    number: int
    counts: Counts


class ChunkStore:
    """The chunks of all jobs of a kind. `notifier` hears of steps and failures that this process stores."""

    def __init__(self, database: Database, kind: JobKind, notifier: Notifier) -> None:
        self._database, self._notifier = database, notifier
        self._tables = tables(kind.name)
        self._totals = ChunkTotals(self._tables)
        table, keys = self._tables.steps.c, ("uid", "phase", "step", "number")
        where = [table[name] == sa.bindparam(f"of_{name}") for name in keys]
        self._commit = sa.update(self._tables.steps).where(*where).values(counts=sa.bindparam("done"))

    async def put_chunks(self, uid: str, *, phase: str, chunks: AsyncIterable[Sequence[str]]) -> Planned:
        """Stores which records are in which chunk, page by page; a repeated call replaces the same by the same."""
        planned, page = Planned(0, 0), list[Sequence[str]]()
        async for ids in chunks:
            page.append(ids)
            if len(page) == PAGE_CHUNKS:
                planned, page = await self._put_page(uid, phase, page, after=planned), []
        planned = await self._put_page(uid, phase, page, after=planned)
        table = self._tables.chunks
        beyond = sa.delete(table).where(table.c.uid == uid, table.c.phase == phase, table.c.number >= planned.chunks)
        await self._database.write(lambda connection: connection.execute(beyond))
        return planned

    async def _put_page(self, uid: str, phase: str, page: Sequence[Sequence[str]], *, after: Planned) -> Planned:
        rows = [
            {"uid": uid, "phase": phase, "number": number, "record_ids": list(ids)}
            for number, ids in enumerate(page, start=after.chunks)
        ]
        insert = self._database.insert(self._tables.chunks)
        replace = insert.on_conflict_do_update(
            index_elements=["uid", "phase", "number"], set_={"record_ids": insert.excluded.record_ids}
        )

        def put(connection: Connection) -> None:
            lock_job(connection, self._tables, uid)  # two replicas take turns
            connection.execute(replace, rows)

        if rows:
            await self._database.write(put)
        return Planned(after.records + sum(map(len, page)), after.chunks + len(page))

    async def begin_chunks(
        self, uid: str, *, phase: str, numbers: Sequence[int], steps: Sequence[str]
    ) -> dict[int, ChunkState]:
        """Notes that chunks are taken up, and returns what is known of those that there are, by number."""
        table, chunk = self._tables.steps.c, self._tables.chunks.c
        where = (table.uid == uid, table.phase == phase, table.number.in_(numbers))
        keys = ["uid", "phase", "step", "number"]
        insert = self._database.insert(self._tables.steps).on_conflict_do_nothing(index_elements=keys)
        again = sa.update(self._tables.steps).where(*where, table.counts.is_(None)).values(attempts=table.attempts + 1)
        of_chunks = (chunk.uid == uid, chunk.phase == phase, chunk.number.in_(numbers))
        ids = sa.select(chunk.number, chunk.record_ids).where(*of_chunks).order_by(chunk.number).with_for_update()

        def begin(connection: Connection) -> tuple[Sequence[Any], Sequence[Any]]:
            # A chunk's row is the lock of its steps' rows: replicas that take up the same chunk take turns.
            found = connection.execute(ids).all()
            begun = [
                {"uid": uid, "phase": phase, "number": row.number, "step": step, "attempts": 0}
                for row in found
                for step in steps
            ]
            if begun:
                connection.execute(insert, begun)
                connection.execute(again)
            columns = (table.number, table.step, table.attempts, table.counts)
            return found, connection.execute(sa.select(*columns).where(*where)).all()

        found, rows = await self._database.write(begin)
        of_number: dict[int, list[Any]] = {}
        for row in rows:
            of_number.setdefault(row.number, []).append(row)
        return {row.number: _state(row.record_ids, of_number[row.number]) for row in found}

    async def chunk_count(self, uid: str, *, phase: str) -> int:
        """Number of chunks of a phase."""
        return await self._database.read(lambda connection: self.read_chunk_count(connection, uid, phase=phase))

    def read_chunk_count(self, connection: Connection, uid: str, *, phase: str) -> int:
        """`chunk_count`, within a transaction (blocking)."""
        chunk = self._tables.chunks.c
        query = sa.select(sa.func.count()).where(chunk.uid == uid, chunk.phase == phase)
        return int(connection.execute(query).scalar_one())

    async def committed_count(self, uid: str, *, phase: str, step: str) -> int:
        """Number of chunks of a phase that have committed a step."""
        table, first = self._tables.steps.c, self._totals.num_settled(uid, phase, step)
        where = (table.uid == uid, table.phase == phase, table.step == step, table.number >= first)
        query = sa.select(sa.func.count()).where(*where, table.counts.isnot(None))
        return first + int(await self._database.scalar(query))

    async def put_failure(self, uid: str, *, phase: str, number: int, error: OmnialignError) -> None:
        """Notes why a chunk ended without being done."""
        chunk = self._tables.chunks.c
        where = (chunk.uid == uid, chunk.phase == phase, chunk.number == number)
        update = sa.update(self._tables.chunks).where(*where).values(failure=to_status(error).SerializeToString())
        await self._database.write(
            lambda connection: connection.execute(update), then=lambda _: self._notifier.chunk_failed(uid)
        )

    async def failure(self, uid: str, *, phase: str) -> OmnialignError | None:
        """Why a chunk of the phase ended without being done: the reason of the first one, None if there is none."""
        chunk = self._tables.chunks.c
        where = (chunk.uid == uid, chunk.phase == phase, chunk.failure.isnot(None))
        query = sa.select(chunk.failure).where(*where).order_by(chunk.number).limit(1)
        row = await self._database.first(query)
        return from_status(status_pb2.Status.FromString(row.failure)) if row else None

    async def commit_steps(self, commits: Sequence[StepCommit]) -> None:
        """Stores what steps made of chunks, in one transaction."""
        # Sorted, so that two replicas lock the rows in the same order and never wait for each other in a circle.
        in_order = sorted(commits, key=lambda c: (c.uid, c.phase, c.step, c.number))
        values = [
            {"of_uid": c.uid, "of_phase": c.phase, "of_step": c.step, "of_number": c.number, "done": c.counts.to_json()}
            for c in in_order
        ]
        steps = Counter((c.uid, c.phase, c.step) for c in commits)
        await self._database.write(
            lambda connection: connection.execute(self._commit, values),
            then=lambda _: self._notifier.steps_committed(steps),
        )

    async def totals(self, uid: str) -> dict[str, Counts]:
        """What the chunks of a job committed, by step. `Counts.chunks` is the number of chunks that did so."""
        return await self._database.read(lambda connection: self.read_totals(connection, uid))

    def read_totals(self, connection: Connection, uid: str) -> dict[str, Counts]:
        """`totals`, within a transaction (blocking)."""
        return self._totals.read(connection, uid)

    def recount(self, uid: str) -> None:
        """Has the next look at the totals of a job add up all of its chunks (`ChunkTotals`)."""
        self._totals.forget(uid)

    async def attempts(self, uid: str) -> dict[tuple[str, int], int]:
        """How often each (step, chunk number) of a job was begun."""
        table = self._tables.steps.c
        rows = await self._database.all(sa.select(table.step, table.number, table.attempts).where(table.uid == uid))
        return {(row.step, row.number): row.attempts for row in rows}


def _state(record_ids: Sequence[str], rows: Sequence[Any]) -> ChunkState:
    committed = frozenset(row.step for row in rows if row.counts is not None)
    return ChunkState(tuple(record_ids), committed=committed, is_repeated=any(row.attempts > 1 for row in rows))
