"""Sums over what the chunks of jobs committed, at a cost that does not grow with the number of chunks that are done.

Chunks are worked on more or less in order, so the rows of a step up to the first one that is still open never change,
but in one case: two replicas took each other for dead and worked on the same chunk. What these rows hold is added up
once and remembered; whoever needs the last word has it forgotten first.
"""

from collections.abc import Iterator

import sqlalchemy as sa
from sqlalchemy import Connection

from services.pipeline.counts import Counts
from services.pipeline.schema import Tables

Key = tuple[str, str, str]
"""The uid of a job, a phase and a step."""


class ChunkTotals:
    """The sums of all jobs of a kind. Safe for concurrent threads: what is remembered is replaced, never changed."""

    def __init__(self, tables: Tables) -> None:
        table, last = tables.steps.c, sa.tuple_(sa.bindparam("phase"), sa.bindparam("step"))
        # Made once: to build a statement takes longer than to run it.
        self._next = (
            sa.select(table.phase, table.step)
            .where(table.uid == sa.bindparam("uid"), sa.tuple_(table.phase, table.step) > last)
            .order_by(table.phase, table.step)
            .limit(1)
        )
        of_step = (getattr(table, name) == sa.bindparam(name) for name in ("uid", "phase", "step"))
        open_rows = sa.select(table.number, table.counts).where(*of_step, table.number >= sa.bindparam("first"))
        self._open = open_rows.order_by(table.number)
        self._settled: dict[Key, tuple[int, Counts]] = {}
        """How many chunks of a step are done before the first that is not, and the sum of them."""

    def read(self, connection: Connection, uid: str) -> dict[str, Counts]:
        """The sums of a job by step (blocking)."""
        begun = self._begun(connection, uid)
        return {step: self._sum(connection, (uid, phase, step)) for phase, step in begun}

    def num_settled(self, uid: str, phase: str, step: str) -> int:
        """Number of the first chunk that may not have committed a step: all before it have."""
        return self._settled.get((uid, phase, step), (0, None))[0]

    def forget(self, uid: str) -> None:
        """Has the next `read` add up all chunks of a job."""
        for key in [key for key in list(self._settled) if key[0] == uid]:
            self._settled.pop(key, None)

    def _begun(self, connection: Connection, uid: str) -> Iterator[tuple[str, str]]:
        """Each phase and step of a job that has rows: one look into the index for each, however many rows there are."""
        phase = step = ""
        while row := connection.execute(self._next, {"uid": uid, "phase": phase, "step": step}).first():
            phase, step = row
            yield phase, step

    def _sum(self, connection: Connection, key: Key) -> Counts:
        first, before = self._settled.get(key, (0, Counts()))
        uid, phase, step = key
        rows = connection.execute(self._open, {"uid": uid, "phase": phase, "step": step, "first": first})
        settled, rest = before.copy(), Counts()
        for row in rows:
            if row.number == first and row.counts is not None:
                first += 1
                settled.add(Counts.from_json(row.counts))
            elif row.counts is not None:
                rest.add(Counts.from_json(row.counts))
        self._settled[key] = (first, settled)
        total = settled.copy()
        total.add(rest)
        return total
