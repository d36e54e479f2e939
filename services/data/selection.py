"""Which records of a table to read, and windows on a table in order of id.

A window holds the narrow columns of the selected rows that follow one place. It has an upper limit of bytes, so a table
of any size is read in order by one window after another, each of which costs one scan of the narrow columns.
"""

import bisect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from services.data.record_rows import SCHEMA
from services.data.stored_records import StoredRecords
from services.runtime.recent import RecentValues

NARROW = ["id", "subtask", "split", "hash", "size"]
"""The columns by which records are selected."""
ROW = "row"
"""The column with the position, beside them."""
WINDOW_ROWS = 64 * 1024
WINDOW_BYTES = 8 * 1024 * 1024
KEPT_BYTES = 16 * 1024 * 1024

ENTRY_BYTES = 1024
NO_ROWS = pa.schema([*(SCHEMA.field(name).remove_metadata() for name in NARROW), (ROW, pa.int64())]).empty_table()

Place = tuple[str, int]
"""Where reading begins: at an id (0) or after it (1)."""
State = tuple[Any, ...]
"""The identity of a table, Lance's number for its state, and what is selected of it."""


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

    @property
    def place(self) -> Place:
        """Where reading begins."""
        return max((self.start, 0), (self.after, 1) if self.after else ("", 0))

    @property
    def condition(self) -> State:
        """What decides on a row of a window, apart from where reading begins and ends."""
        return tuple(self.subtasks), tuple(self.splits), self.shard_index, self.shard_count

    def after_batch(self, batch: StoredRecords) -> "Selection | None":
        """What is left once a batch of it was read; None if that was as many as wanted."""
        if self.limit and self.limit <= len(batch):
            return None
        return replace(self, after=batch.last_id, limit=self.limit and self.limit - len(batch))


@dataclass(frozen=True)
class Window:
    """The narrow columns and positions of rows in order of id, from `place` on; the last one ends with the table."""

    place: Place
    rows: pa.Table
    is_last: bool

    def has(self, place: Place) -> bool:
        """Whether what follows a place can be read here."""
        return self.place <= place and (self.is_last or place <= (self.end, 0))

    @property
    def end(self) -> str:
        """The last id; empty if there is none."""
        return str(self.rows["id"][-1].as_py()) if self.rows.num_rows else ""

    @property
    def num_bytes(self) -> int:
        """About what it takes in memory."""
        return int(self.rows.nbytes) + ENTRY_BYTES

    def since(self, place: Place) -> pa.Table:
        """The rows that follow a place."""
        ids, (name, is_after) = self.rows["id"], place
        search = bisect.bisect_right if is_after else bisect.bisect_left
        return self.rows.slice(search(range(len(ids)), name, key=lambda row: ids[row].as_py()))


class Windows:
    """The windows that were read last. Safe for concurrent threads."""

    def __init__(self, max_bytes: int = KEPT_BYTES) -> None:
        self._kept = RecentValues[tuple[State, Place], Window](max_bytes, size=lambda window: window.num_bytes)

    def get(self, state: State, place: Place, read: Callable[[], Window]) -> Window:
        """A window with what follows a place in a state; `read` gives it if none is kept."""
        window = self._kept.find(lambda key, window: key[0] == state and window.has(place))
        if window is None:
            window = read()
            self._kept.put((state, place), window)
        return window


def first_window(
    parts: Iterable[pa.Table], place: Place, *, max_rows: int = WINDOW_ROWS, max_bytes: int = WINDOW_BYTES
) -> Window:
    """The window that begins at `place`, of rows that come in any order. Holds about twice its size meanwhile."""
    kept, is_last = NO_ROWS, True
    waiting, num_rows, num_bytes = list[pa.Table](), 0, 0
    for part in parts:
        waiting.append(part if is_last else part.filter(pc.less(part["id"], kept["id"][-1])))
        num_rows, num_bytes = num_rows + waiting[-1].num_rows, num_bytes + waiting[-1].nbytes
        if num_rows > max_rows or num_bytes > max_bytes:
            kept, is_cut = _smallest(pa.concat_tables([kept, *waiting]), max_rows, max_bytes)
            waiting, num_rows, num_bytes, is_last = [], 0, 0, is_last and not is_cut
    kept, is_cut = _smallest(pa.concat_tables([kept, *waiting]), max_rows, max_bytes)
    return Window(place, kept, is_last and not is_cut)


def mask(columns: pa.Table, selection: Selection) -> Any:
    """Whether each row is selected by what is in the columns, as an array of booleans."""
    keep = np.ones(columns.num_rows, dtype=bool)
    for name, values in (("id", selection.ids), ("subtask", selection.subtasks), ("split", selection.splits)):
        if values:
            allowed = pa.array(list(values), pa.string())
            keep &= pc.is_in(columns[name], value_set=allowed).to_numpy()
    if selection.shard_count > 1:
        keep &= columns["hash"].to_numpy() % selection.shard_count == selection.shard_index
    name, is_after = selection.place
    if name:
        keep &= (pc.greater if is_after else pc.greater_equal)(columns["id"], name).to_numpy()
    return keep


def _smallest(rows: pa.Table, max_rows: int, max_bytes: int) -> tuple[pa.Table, bool]:
    """The first rows in order of id, as a copy that keeps no others alive, and whether there were more."""
    count = max(min(rows.num_rows, max_rows, rows.num_rows * max_bytes // max(rows.nbytes, 1)), 1)
    order = pc.sort_indices(rows, sort_keys=[("id", "ascending")])
    return rows.take(order[:count]).combine_chunks(), count < rows.num_rows
