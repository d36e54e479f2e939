"""The record table: merge by id, snapshots, order, shards, many writers."""

import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from omnialign.content import content
from omnialign.errors import DataLoss
from omnialign.v1 import record_pb2
from services.data import record_rows, record_table, row_index, snapshot
from services.data.record_rows import id_hash, row_of, to_arrow
from services.data.record_table import CommitRetries, RecordTable
from services.data.selection import Selection
from services.data.snapshot import BATCH_BYTES, Snapshot


def table(path: Path, compact_fragments: int = 32) -> RecordTable:
    retries = CommitRetries(max_retries=50, timeout_seconds=60)
    return RecordTable(
        path / "t.lance", commit_retries=retries, retention_seconds=0, compact_fragments=compact_fragments
    )


def record(number: int, text: str = "x", subtask: str = "t2t", split: str = "train") -> record_pb2.Record:
    return record_pb2.Record(id=f"r{number:05d}", subtask=subtask, split=split, prompt=content(text))


def read(snapshot: Snapshot, **selection: object) -> list[record_pb2.Record]:
    return [found for batch in snapshot.batches(Selection(**selection)) for found in batch.records()]  # type: ignore[arg-type]  # any fields


def test_records_come_back_ordered_by_id(tmp_path: Path) -> None:
    records = table(tmp_path)
    assert records.merge([record(number) for number in (3, 1, 2)]) == (3, 0)
    assert records.merge([record(0), record(2, "new")]) == (1, 1)
    found = read(records.snapshot())
    assert [one.id for one in found] == ["r00000", "r00001", "r00002", "r00003"]
    assert found[2] == record(2, "new")


def test_of_equal_ids_in_one_call_the_last_counts(tmp_path: Path) -> None:
    records = table(tmp_path)
    assert records.merge([record(1, "old"), record(1, "new")]) == (1, 0)
    assert read(records.snapshot()) == [record(1, "new")]


def test_a_snapshot_does_not_change_and_a_repeated_write_is_no_change(tmp_path: Path) -> None:
    records = table(tmp_path)
    records.merge([record(1), record(2)])
    before = records.snapshot()
    assert records.merge([record(1), record(2)]) == (0, 2)
    assert records.snapshot().fingerprint() == before.fingerprint()
    records.merge([record(1, "other")])
    assert records.snapshot().fingerprint() != before.fingerprint()
    assert read(before) == [record(1), record(2)]


def test_filters_hold_whatever_the_values_say(tmp_path: Path) -> None:
    records = table(tmp_path)
    evil = "x' OR '1'='1"
    records.merge([record(1, subtask="t2i"), record(2, split="test"), record(3, subtask=evil[:32])])
    assert [one.id for one in read(records.snapshot(), subtasks=("t2i",))] == ["r00001"]
    assert [one.id for one in read(records.snapshot(), splits=("test",))] == ["r00002"]
    assert [one.id for one in read(records.snapshot(), subtasks=(evil,))] == ["r00003"]
    assert read(records.snapshot(), ids=(evil,)) == []
    assert [one.id for one in read(records.snapshot(), ids=("r00003", "r00001"))] == ["r00001", "r00003"]
    assert [one.id for one in read(records.snapshot(), limit=2)] == ["r00001", "r00002"]


SQL = st.sampled_from(
    ["' OR '1'='1", "'; DROP TABLE t; --", "x\\", "\\'", '"', "`", "NULL", "id", "%", "_", "a''b", "\0"]
)
TEXTS = st.lists(SQL | st.text(min_size=1, max_size=20), min_size=1, max_size=12, unique=True)


@settings(max_examples=15, deadline=None)
@given(TEXTS, TEXTS)
def test_ids_may_be_any_text(ids: list[str], others: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        records = table(Path(folder))
        assert records.merge([record_pb2.Record(id=one) for one in ids]) == (len(ids), 0)
        known = sorted(set(others) & set(ids))
        assert [one.id for one in read(records.snapshot(), ids=others)] == known
        changed = [record_pb2.Record(id=one, split="new") for one in others]
        assert records.merge(changed) == (len(others) - len(known), len(known))
        assert [one.id for one in read(records.snapshot(), splits=["new"])] == sorted(others)
        records.delete(others)
        assert [one.id for one in read(records.snapshot())] == sorted(set(ids) - set(others))


def test_ids_are_looked_up_together_however_many_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A look into the index costs about the same for one id and for a thousand."""
    records, looks = table(tmp_path), list[int]()
    old = [record(number) for number in range(1200)]
    records.merge(old)

    def counted(dataset: object, hashes: Sequence[int], *kept: Any) -> list[int]:
        looks.append(len(hashes))
        return row_index.find(dataset, hashes, *kept)

    monkeypatch.setattr(record_table, "find", counted)
    monkeypatch.setattr(snapshot, "find", counted)
    new = [record(number, "new") if number % 3 == 0 else record(number) for number in range(1500)]
    assert records.merge(new) == (300, 1200)
    assert read(records.snapshot(), ids=[one.id for one in new]) == new
    assert looks == [1500, 1500]


@given(hashes=st.lists(st.integers(0, 9)), wanted=st.sets(st.integers(0, 12)))
def test_all_rows_with_one_of_the_hashes_are_found_and_no_other(hashes: list[int], wanted: set[int]) -> None:
    places = row_index.SortedHashes(np.array(hashes, np.int64)).places(np.array(sorted(wanted), np.int64))
    assert sorted(places) == [place for place, one in enumerate(hashes) if one in wanted]


def test_records_by_id_come_in_batches_of_bounded_size(tmp_path: Path) -> None:
    records = table(tmp_path)
    large = [record(number, "x" * (BATCH_BYTES // 3)) for number in range(7)]
    records.merge(large)
    batches = list(records.snapshot().batches(Selection(ids=[one.id for one in reversed(large)])))
    assert [len(batch) for batch in batches] == [2, 2, 2, 1]
    assert [one for batch in batches for one in batch.records()] == large


def test_shards_are_disjoint_and_complete(tmp_path: Path) -> None:
    records = table(tmp_path)
    records.merge([record(number) for number in range(200)])
    shards = [read(records.snapshot(), shard_index=index, shard_count=3) for index in range(3)]
    ids = [record(number).id for number in range(200)]
    assert shards == [read(records.snapshot(), shard_index=index, shard_count=3, ids=ids) for index in range(3)]
    assert all(len(shard) > 40 for shard in shards)
    assert sorted(one.id for shard in shards for one in shard) == [record(number).id for number in range(200)]


@given(st.text(min_size=1, max_size=50))
def test_the_shard_of_an_id_is_a_number_that_fits(name: str) -> None:
    assert 0 <= id_hash(name) < 2**63


def test_batches_stay_below_a_mebibyte_and_a_large_record_goes_alone(tmp_path: Path) -> None:
    records = table(tmp_path)
    records.merge([record(number, "y" * 300_000) for number in range(10)] + [record(99, "z" * 2_000_000)])
    batches = list(records.snapshot().batches(Selection()))
    assert [len(batch) for batch in batches] == [3, 3, 3, 1, 1] or len(batches[-1]) == 1
    assert all(sum(map(len, batch.messages)) < BATCH_BYTES for batch in batches[:-1])


def test_many_writers_lose_nothing_and_duplicate_nothing(tmp_path: Path) -> None:
    records = table(tmp_path)

    def write(writer: int) -> None:
        for start in range(0, 100, 20):
            records.merge([record(number, f"w{writer}") for number in range(start + writer, start + writer + 30)])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    assert [one.id for one in read(records.snapshot())] == [record(number).id for number in range(113)]


def test_an_id_is_not_another_one_with_the_same_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (record_rows, record_table, snapshot):
        monkeypatch.setattr(module, "id_hash", lambda name: len(name))
    records = table(tmp_path)
    assert records.merge([record(number) for number in range(3)]) == (3, 0)
    assert records.merge([record(2, "new"), record(3)]) == (1, 1)
    records.delete([record(1).id])
    assert read(records.snapshot(), ids=[record(1).id, record(2).id]) == [record(2, "new")]
    assert [one.id for one in read(records.snapshot())] == ["r00000", "r00002", "r00003"]


WRITER = """
import sys
from pathlib import Path
from omnialign.v1.record_pb2 import Record
from services.data.record_table import CommitRetries, RecordTable
retries = CommitRetries(50, 60)
table = RecordTable(Path(sys.argv[1]), commit_retries=retries, retention_seconds=3600, compact_fragments=4)
for start in range(0, 60, 10):
    table.merge([Record(id=f"r{n:05d}", labels={"writer": sys.argv[2]}) for n in range(start, start + 20)])
    table.improve()
"""


def test_writers_in_other_processes_lose_nothing_and_duplicate_nothing(tmp_path: Path) -> None:
    records = table(tmp_path)
    records.merge([record(0)])
    command = [sys.executable, "-c", WRITER, records.place.uri]
    writers = [subprocess.Popen([*command, str(number)]) for number in range(3)]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    assert [one.id for one in read(records.snapshot())] == [record(number).id for number in range(70)]


def test_many_small_writes_are_compacted_and_tagged_states_stay(tmp_path: Path) -> None:
    records = table(tmp_path, compact_fragments=8)
    records.merge([record(0)])
    kept = records.snapshot().version
    records.tag("v1", version=kept)
    for number in range(1, 30):
        records.merge([record(number)])
        records.improve()
        records.clean()
    dataset = lance.dataset(records.place.uri)
    assert len(dataset.get_fragments()) <= 9
    assert len(dataset.versions()) < 20
    assert read(records.snapshot(kept)) == [record(0)]
    assert len(read(records.snapshot())) == 30


def test_compaction_is_no_change(tmp_path: Path) -> None:
    records = table(tmp_path, compact_fragments=1)
    for number in range(3):
        records.merge([record(number)])
    before = records.snapshot()
    fingerprint = before.fingerprint()
    assert records.improve()
    assert records.snapshot().version > before.version
    assert records.snapshot().fingerprint() == fingerprint


def test_equal_records_have_equal_bytes() -> None:
    labels = [{"a": "1", "b": "2"}, {"b": "2", "a": "1"}]
    rows = [to_arrow([row_of(record_pb2.Record(id="r", labels=one))])["record"][0] for one in labels]
    assert rows[0] == rows[1]


@pytest.mark.parametrize("kind", ["_versions/*.manifest", "data/*.lance"])
@pytest.mark.parametrize(
    "damage", [lambda data: b"\xff" * len(data), lambda data: data[: len(data) // 2], lambda _: b""]
)
def test_a_damaged_file_is_data_loss_with_the_table_and_the_way_back(
    tmp_path: Path, kind: str, damage: Callable[[bytes], bytes]
) -> None:
    table(tmp_path).merge([record(number) for number in range(50)])
    for file in (tmp_path / "t.lance").glob(kind):
        file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(DataLoss, match="from a backup") as caught:
        read(table(tmp_path).snapshot())
    assert caught.value.reason == "TABLE_DAMAGED"
    assert str(tmp_path / "t.lance") in caught.value.message
