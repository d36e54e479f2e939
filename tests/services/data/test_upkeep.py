"""Upkeep: bounded steps beside the writers, one at a time, that change no record."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from services.data import row_index, upkeep
from services.data.bloom_filter import num_bytes
from services.data.upkeep import Upkeep
from tests.services.data.test_record_table import read, record, table


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thresholds that a small table reaches."""
    monkeypatch.setattr(upkeep, "FRAGMENT_ROWS", 100)
    monkeypatch.setattr(upkeep, "INDEXED_ROWS", 400)
    monkeypatch.setattr(upkeep, "UNINDEXED_ROWS", 50)


def index_of(records: Any) -> tuple[int, int]:
    """The number of segments of the index, and of rows in it."""
    indices = records._connect(None).describe_indices()
    return (len(indices[0].segments), indices[0].num_rows_indexed) if indices else (0, 0)


@pytest.mark.usefixtures("often")
def test_the_index_follows_the_table_in_few_segments_and_finds_what_was_changed_since(tmp_path: Path) -> None:
    records = table(tmp_path, compact_fragments=4)
    for start in range(0, 1000, 20):
        records.merge([record(number) for number in range(start, start + 20)])
        while records.improve():
            pass
    segments, rows = index_of(records)
    assert rows >= 950
    assert segments <= 4
    assert len(records._connect(None).get_fragments()) <= 15
    records.merge([record(number, "changed") for number in range(100, 110)])
    records.delete(["r00111"])
    names = [record(number).id for number in range(95, 115)]
    found = {one.id: one.prompt.parts[0].text for one in read(records.snapshot(), ids=names)}
    assert found == {f"r{n:05d}": "changed" if 100 <= n < 110 else "x" for n in range(95, 115) if n != 111}
    assert records.merge([record(111), record(100), record(101, "changed")]) == (1, 2)
    assert [one.id for one in read(records.snapshot())] == [record(number).id for number in range(1000)]


@pytest.mark.usefixtures("often")
def test_small_fragments_are_joined_before_they_are_indexed_and_again_once_many_are(tmp_path: Path) -> None:
    records, counts = table(tmp_path, compact_fragments=8), []
    for start in range(0, 720, 10):
        records.merge([record(number) for number in range(start, start + 10)])
        while records.improve():
            pass
        counts.append((len(records._connect(None).get_fragments()), index_of(records)[1]))
    assert counts[4:6] == [(5, 0), (2, 60)]
    assert max(count for count, _ in counts) <= 8 + 8
    assert [one.id for one in read(records.snapshot())] == [record(number).id for number in range(720)]


@pytest.mark.usefixtures("often")
def test_what_was_read_before_is_found_in_every_state(tmp_path: Path) -> None:
    records = table(tmp_path, compact_fragments=2)
    states = []
    for start in range(0, 300, 30):
        records.merge([record(number) for number in range(start, start + 30)])
        records.delete([record(start).id])
        states.append((records.snapshot(), start + 30))
        while records.improve():
            pass
    for state, end in states:
        wanted = [record(number).id for number in range(0, 300, 7)]
        expected = [record(n).id for n in range(0, 300, 7) if n < end and n % 30]
        assert [one.id for one in read(state, ids=wanted)] == expected


@pytest.fixture
def looked_up(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many hashes each look into an index was for."""
    looks, look = list[int](), row_index._indexed

    def counted(dataset: Any, wanted: Any) -> list[int]:
        looks.append(len(wanted))
        return look(dataset, wanted)

    monkeypatch.setattr(row_index, "_indexed", counted)
    return looks


@pytest.mark.usefixtures("often")
def test_new_records_are_not_looked_for_in_the_index(tmp_path: Path, looked_up: list[int]) -> None:
    records = table(tmp_path)
    records.merge([record(number) for number in range(300)])
    while records.improve():
        pass
    records.merge([record(number) for number in range(300, 400)])
    assert records.merge([record(7, "changed"), record(299), *(record(n) for n in range(400, 500))]) == (100, 2)
    assert looked_up == [0, 2]
    assert read(records.snapshot(), ids=[record(7).id]) == [record(7, "changed")]


@pytest.mark.usefixtures("often")
def test_filters_of_segments_that_were_merged_go(tmp_path: Path) -> None:
    records, sizes = table(tmp_path), list[int]()
    for start in range(0, 1000, 100):
        records.merge([record(number) for number in range(start, start + 100)])
        while records.improve():
            pass
        sizes.append(records._caches.filters.num_bytes)
    assert sizes[-1] <= num_bytes(1000) + 10
    assert sizes[-1] >= 8 * sizes[0] > 0


@pytest.mark.usefixtures("often")
def test_the_index_is_looked_into_where_a_part_of_what_it_has_is_gone(tmp_path: Path, looked_up: list[int]) -> None:
    records = table(tmp_path)
    for start in (0, 20, 40):
        records.merge([record(number) for number in range(start, start + 20)])
    while records.improve():
        pass
    records.delete([record(number).id for number in range(20, 40)])
    later = table(tmp_path)  # of a process that has no filters yet
    assert not later.improve()
    assert later.merge([record(number) for number in range(10, 50)]) == (20, 20)
    assert looked_up == [40]
    assert read(later.snapshot()) == [record(number) for number in range(60)]


@pytest.mark.usefixtures("often")
def test_writers_and_upkeep_at_once_lose_and_double_nothing(tmp_path: Path) -> None:
    done = threading.Event()

    def write(writer: int) -> None:
        records = table(tmp_path, compact_fragments=2)
        for start in range(0, 120, 10):
            records.merge([record(number, f"w{writer}") for number in range(start, start + 20)])

    def keep() -> None:
        records = table(tmp_path, compact_fragments=2)
        while not done.is_set():
            records.improve()

    with ThreadPoolExecutor(4) as pool:
        keeping = pool.submit(keep)
        list(pool.map(write, range(3)))
        done.set()
        keeping.result()
    assert [one.id for one in read(table(tmp_path).snapshot())] == [record(number).id for number in range(130)]


def test_writers_who_begin_a_table_at_once_lose_and_double_nothing(tmp_path: Path) -> None:
    for attempt in range(5):
        folder = tmp_path / str(attempt)
        folder.mkdir()
        together = threading.Barrier(4)

        def write(writer: int, folder: Path = folder, together: threading.Barrier = together) -> tuple[int, int]:
            records = table(folder)
            together.wait()
            return records.merge([record(number) for number in (*range(writer, writer + 3), 100 + writer)])

        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(write, range(4)))
        assert sum(inserted for inserted, _ in answers) == 10
        assert len(read(table(folder).snapshot())) == 10


def test_a_table_that_was_emptied_begins_anew(tmp_path: Path) -> None:
    records = table(tmp_path)
    for text in ("first", "second"):
        assert records.merge([record(number, text) for number in range(5)]) == (5, 0)
        assert [one.prompt.parts[0].text for one in read(records.snapshot(), ids=[record(3).id])] == [text]
        records.delete([record(number).id for number in range(5)])
        assert read(records.snapshot()) == []
        assert read(records.snapshot(), ids=[record(3).id]) == []


KEEPER = """
import sys
from pathlib import Path
from services.data import upkeep
from services.data.record_table import CommitRetries, RecordTable
upkeep.FRAGMENT_ROWS, upkeep.INDEXED_ROWS, upkeep.UNINDEXED_ROWS = 500, 1000, 100
table = RecordTable(Path(sys.argv[1]), commit_retries=CommitRetries(5, 30), retention_seconds=0, compact_fragments=1)
print("ready", flush=True)
while table.improve() or table.clean():
    pass
"""


@pytest.mark.chaos
@pytest.mark.parametrize("seconds", [0.001 * 2**exponent for exponent in range(9)])
def test_a_killed_compaction_loses_nothing(tmp_path: Path, seconds: float) -> None:
    records = table(tmp_path)
    for start in range(0, 2000, 100):
        records.merge([record(number, "y" * 1000) for number in range(start, start + 100)])
    before = records.snapshot().fingerprint()
    command = [sys.executable, "-c", KEEPER, records.place.uri]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as keeper:
        assert keeper.stdout is not None
        keeper.stdout.readline()
        with pytest.raises(subprocess.TimeoutExpired):  # it never ends by itself
            keeper.wait(seconds)
        os.kill(keeper.pid, signal.SIGKILL)
    assert records.snapshot().fingerprint() == before
    wanted = [record(number).id for number in range(0, 2000, 50)]
    assert [one.id for one in read(records.snapshot(), ids=wanted)] == wanted
    assert records.merge([record(5), record(2000)]) == (1, 1)
    while records.improve():
        pass
    assert len(read(records.snapshot())) == 2001


class Slow:
    """A table with so many steps to do, of which each waits for leave."""

    def __init__(self, steps: int, *, error: Exception | None = None) -> None:
        self.left, self.error, self.cleaned = steps, error, 0
        self.begun, self.leave = threading.Event(), threading.Event()

    def improve(self) -> bool:
        self.begun.set()
        assert self.leave.wait(10)
        if self.error is not None:
            raise self.error
        self.left -= 1
        return self.left > 0

    def clean(self) -> bool:
        self.cleaned += 1
        return True


@pytest.fixture
async def keeper() -> AsyncIterator[Upkeep]:
    with ThreadPoolExecutor(4) as pool:
        yield Upkeep(pool=pool, writes=2, clean_seconds=3600)


async def test_a_table_is_due_after_so_many_writes_and_cleaned_once_it_is_in_order(keeper: Upkeep) -> None:
    slow = Slow(3)
    slow.leave.set()
    keeper.written("one", slow, num_rows=1)
    await keeper.settle()
    assert slow.left == 3
    for _ in range(2):
        keeper.written("one", slow, num_rows=1)
        keeper.written("one", slow, num_rows=1)
        await keeper.settle()
    assert slow.left <= 0
    assert slow.cleaned == 1  # the second time comes too soon for another
    keeper.written("large", large := Slow(1), num_rows=10**6)
    large.leave.set()
    await keeper.settle()
    assert large.left == 0


async def test_a_table_that_fails_keeps_no_other_from_its_turn(keeper: Upkeep) -> None:
    bad, good = Slow(1, error=OSError("the disk is full")), Slow(2)
    for name, one in (("bad", bad), ("good", good)):
        one.leave.set()
        keeper.written(name, one, num_rows=10**6)
    await keeper.settle()
    assert good.left == 0


async def test_a_table_that_is_removed_while_it_waits_is_not_touched(keeper: Upkeep) -> None:
    gone, kept = Slow(1), Slow(1)
    async with keeper.turn:
        for name, one in (("gone", gone), ("kept", kept)):
            one.leave.set()
            keeper.written(name, one, num_rows=10**6)
        settling = asyncio.create_task(keeper.settle())
        await asyncio.sleep(0)
        keeper.forget("gone")
    await settling
    assert (gone.left, kept.left) == (1, 0)


async def test_steps_have_their_turn_and_the_end_waits_for_none(keeper: Upkeep) -> None:
    slow = Slow(10**6)
    async with keeper.running():
        keeper.written("one", slow, num_rows=10**6)
        assert await asyncio.to_thread(slow.begun.wait, 10)
        assert keeper.turn.locked()
    assert not keeper.turn.locked()
    slow.leave.set()  # the thread ends with its step: no other was begun
    assert slow.left >= 10**6 - 1
