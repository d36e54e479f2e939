"""Which records of a table to read, and at which positions they are.

The narrow columns of a state of a table never change. Those of the states that were read last are kept in order of id,
so that a part of a table costs the same wherever it is.
"""

import bisect
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from omnialign.v1 import record_pb2

NARROW = ["id", "subtask", "split", "hash", "size"]
"""The columns by which records are selected."""
ROW = "row"
"""The column with the position, beside them."""
MAX_BYTES = 64 * 1024 * 1024
MAX_ROWS = 500_000
"""Rows of the largest table whose narrow columns are kept."""

State = tuple[str, int]
"""The identity of a table, and Lance's number for its state."""


@dataclass(frozen=True)
class Selection:
    """Which records to read; empty fields mean all."""

    subtasks: Sequence[str] = ()
    splits: Sequence[str] = ()
    ids: Sequence[str] = ()
    shard_index: int = 0
    shard_count: int = 0
    limit: int = 0
    after: str = ""
    """Only records whose ids come later."""
    start: str = ""
    """Only records with this id or a later one."""

    def after_batch(self, batch: Sequence[record_pb2.Record]) -> "Selection | None":
        """What is left once a batch of it was read; None if that was as many as wanted."""
        if self.limit and self.limit <= len(batch):
            return None
        return replace(self, after=batch[-1].id, limit=self.limit and self.limit - len(batch))


class Indexes:
    """The narrow columns of the states that were read last, in order of id. Safe for concurrent threads."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._max_bytes, self._num_bytes = max_bytes, 0
        self._kept: OrderedDict[State, pa.Table] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, state: State, read: Callable[[], pa.Table]) -> pa.Table:
        """The columns of a state; `read` gives them, in any order, if they are not kept."""
        with self._lock:
            if state in self._kept:
                self._kept.move_to_end(state)
                return self._kept[state]
        index = read().sort_by("id").combine_chunks()
        with self._lock:
            if state not in self._kept and index.nbytes <= self._max_bytes:
                self._kept[state] = index
                self._num_bytes += index.nbytes
            while self._num_bytes > self._max_bytes:
                self._num_bytes -= self._kept.popitem(last=False)[1].nbytes
        return index


def positions(index: pa.Table, selection: Selection) -> tuple[Any, Any]:
    """Positions and sizes of the selected records, for narrow columns in order of id."""
    ids, begins, ends = index["id"], bisect.bisect_left, bisect.bisect_right
    first = max(
        _place(ids, selection.start, begins) if selection.start else 0,
        _place(ids, selection.after, ends) if selection.after else 0,
    )
    rest = index.slice(first)
    places = np.flatnonzero(mask(rest, selection))
    if selection.limit:
        places = places[: selection.limit]
    return rest[ROW].to_numpy()[places], rest["size"].to_numpy()[places]


def mask(columns: pa.Table, selection: Selection) -> Any:
    """Whether each row is selected, as an array of booleans; where ids begin is for `positions`."""
    keep = np.ones(columns.num_rows, dtype=bool)
    for name, values in (("subtask", selection.subtasks), ("split", selection.splits), ("id", selection.ids)):
        if values:
            allowed = pa.array(list(values), pa.string())
            keep &= pc.is_in(columns[name], value_set=allowed).to_numpy()
    if selection.shard_count > 1:
        keep &= columns["hash"].to_numpy() % selection.shard_count == selection.shard_index
    return keep


def _place(ids: pa.ChunkedArray, wanted: str, side: Callable[..., int]) -> int:
    return side(range(len(ids)), wanted, key=lambda place: ids[place].as_py())
