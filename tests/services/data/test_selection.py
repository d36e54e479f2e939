"""Windows on a table in order of id: bounded, complete, and kept while there is room."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.data import snapshot
from services.data.selection import NO_ROWS, Place, Selection, Window, Windows, first_window, mask
from tests.services.data.test_record_table import read, record, table

PARTS = st.lists(st.lists(st.text(max_size=4), max_size=6), max_size=8)


def rows(ids: list[str]) -> pa.Table:
    columns = [ids, *([["x"] * len(ids)] * 2), *([list(range(len(ids)))] * 3)]
    return pa.table(dict(zip(NO_ROWS.column_names, columns, strict=True)), schema=NO_ROWS.schema)


def parts_from(parts: list[list[str]], place: Place) -> Iterator[pa.Table]:
    start, after = ("", place[0]) if place[1] else (place[0], "")
    for part in map(rows, parts):
        yield part.filter(pa.array(mask(part, Selection(start=start, after=after))))


@given(PARTS, st.integers(1, 7))
def test_one_window_after_another_gives_all_rows_in_order(parts: list[list[str]], max_rows: int) -> None:
    wanted = sorted({one for part in parts for one in part if one})
    unique = [[one for one in dict.fromkeys(part) if one] for part in parts]
    seen, place = set[str](), ("", 0)
    for part in unique:  # an id is in one part only, as in a table
        part[:] = [one for one in part if one not in seen]
        seen.update(part)
    found: list[str] = []
    while True:
        window = first_window(parts_from(unique, place), place, max_rows=max_rows)
        assert window.rows.num_rows <= max_rows
        found += window.rows["id"].to_pylist()
        if window.is_last:
            break
        place = (window.end, 1)
    assert found == wanted


def test_a_window_ends_where_it_has_its_bytes_and_has_at_least_one_row() -> None:
    long = [rows([f"{number:02d}" + "x" * 1000]) for number in range(20)]
    window = first_window(iter(long), ("", 0), max_bytes=5000)
    assert 2 <= window.rows.num_rows <= 5
    assert not window.is_last
    assert first_window(iter(long), ("", 0), max_bytes=10).rows.num_rows == 1


def test_a_window_is_read_once_and_dropped_when_there_is_no_room() -> None:
    window = Window(("", 0), rows([f"r{number:02d}" for number in range(50)]), is_last=False)
    reads: list[Place] = []

    def read_at(place: Place) -> Window:
        reads.append(place)
        return Window(place, window.rows, is_last=False)

    windows = Windows(max_bytes=2 * window.num_bytes)
    for state in ("one", "one", "other", "one", "third", "one", "other"):
        windows.get((state,), ("r10", 0), lambda: read_at(("", 0)))
    assert len(reads) == 4  # the state that was used least recently made room, and was read again
    windows.get(("other",), ("r49", 0), lambda: read_at(("", 0)))
    assert len(reads) == 4
    windows.get(("other",), ("r49", 1), lambda: read_at(("r49", 1)))
    assert len(reads) == 5  # what follows its last row is not in it
    assert [one.as_py() for one in window.since(("r47", 1))["id"]] == ["r48", "r49"]


def test_a_table_larger_than_a_window_is_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = table(tmp_path)
    records.merge([record(number, split="test" if number % 3 else "train") for number in range(100)])
    monkeypatch.setattr(snapshot.first_window, "__kwdefaults__", {"max_rows": 7, "max_bytes": 10**6})
    state = records.snapshot()
    assert [one.id for one in read(state)] == [record(number).id for number in range(100)]
    assert [one.id for one in read(state, limit=20, start="r00050")] == [record(n).id for n in range(50, 70)]
    assert len(read(state, splits=("train",), after="r00000")) == 33
