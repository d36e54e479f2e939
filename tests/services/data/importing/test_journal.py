"""What is there already is not read again, and an import that was interrupted goes on where it was."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from omnialign.client import AsyncClient
from omnialign.v1 import record_pb2
from omnialign.v1.data_service_pb2 import ImportDatasetResponse as Progress
from services.data.importing import import_run, pieces
from services.sandbox.pool import Sandbox
from tests.services.data.importing.test_importer import png

NAME = "projects/default/datasets/{}"
Line = dict[str, Any]


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that children read, and what for."""
    found: list[str] = []
    call, iterate = Sandbox.call, Sandbox.iterate

    def calls(self: Sandbox, function: Any, *args: Any, **options: Any) -> Any:
        found.append(f"{function.__name__} {args[0].name}")
        return call(self, function, *args, **options)

    def iterates(self: Sandbox, function: Any, *args: Any, **options: Any) -> Any:
        found.append(f"{function.__name__} {args[0].name}")
        return iterate(self, function, *args, **options)

    monkeypatch.setattr(Sandbox, "call", calls)
    monkeypatch.setattr(Sandbox, "iterate", iterates)
    return found


def line(index: int, **more: Any) -> Line:
    return {"prompt": f"ask {index}", "response_1": "a", "response_2": "b", "overall_response": 1} | more


def write(path: Path, lines: list[Line]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(one) + "\n" for one in lines))
    return path


async def run(client: AsyncClient, source: Path, dataset: str = "kept", **options: Any) -> Progress:
    options = {"winner_labels": (1, 2)} | options
    async for done in client.import_dataset(dataset, str(source), **options):
        last = done
    return last


async def content(client: AsyncClient, dataset: str = "kept") -> list[bytes]:
    name = NAME.format(dataset)
    found = [record async for record in client.stream_records(name)]
    found += [record async for record in client.stream_quarantine(name)]
    return [record.SerializeToString(deterministic=True) for record in found]


def counts(done: Progress) -> tuple[Any, ...]:
    return (
        done.rows_read, done.records_imported, done.rows_quarantined, done.media_bytes,
        dict(done.quarantine_reasons), dict(done.subtask_counts),
        [(one.file, one.rows) for one in done.repeated_rows], [one.file for one in done.file_formats],
    )  # fmt: skip


async def test_files_that_are_there_are_not_read_again(client: AsyncClient, tmp_path: Path, reads: list[str]) -> None:
    for name in ("one", "two"):
        write(
            tmp_path / "data" / f"t2t-{name}.jsonl", [*map(line, range(300)), line(300, overall_response=7, more=name)]
        )
    first = await run(client, tmp_path / "data", ignored_columns=["other"])
    before = await content(client)
    assert first.rows_quarantined == 2
    reads.clear()
    again = await run(client, tmp_path / "data", ignored_columns=["other"])
    assert reads == []
    assert (again.rows_skipped, again.dataset_version) == (602, first.dataset_version)
    assert counts(again) == counts(first)
    assert await content(client) == before
    await run(client, tmp_path / "data", ignored_columns=["another"])
    assert sorted(set(reads)) == [
        f"{step} t2t-{name}.jsonl" for step in ("read_pieces", "survey") for name in ("one", "two")
    ]


async def test_only_the_file_that_was_corrected_is_read_again(
    client: AsyncClient, tmp_path: Path, reads: list[str]
) -> None:
    old = [*map(line, range(3))]
    write(tmp_path / "t2t-a.jsonl", old)
    write(tmp_path / "t2t-b.jsonl", [*map(line, range(5, 9))])
    await run(client, tmp_path)
    for lines, removed in (([line(0, overall_response=2), *old[1:]], 1), (old, 1)):
        write(tmp_path / "t2t-a.jsonl", lines)
        reads.clear()
        done = await run(client, tmp_path)
        assert {read.split()[1] for read in reads} == {"t2t-a.jsonl"}
        assert "read_pieces t2t-a.jsonl" in reads
        assert (done.records_removed, done.rows_skipped, done.dataset_version.record_count) == (removed, 4, 7)


async def test_records_that_are_gone_or_replaced_come_again(client: AsyncClient, tmp_path: Path) -> None:
    source = write(tmp_path / "t2t.jsonl", [*map(line, range(5))])
    await run(client, source)
    before = await content(client)
    other = record_pb2.Record.FromString(before[2])
    other.preference.preferred = 2
    await client.append_records(NAME.format("kept"), [other])
    assert await content(client) != before
    assert (await run(client, source)).rows_skipped == 0
    assert await content(client) == before
    await client.delete_dataset(NAME.format("kept"))
    assert (await run(client, source)).rows_skipped == 0
    assert await content(client) == before


@pytest.mark.parametrize("change", ["replaced", "removed", "added"])
async def test_media_files_beside_the_rows_count_too(client: AsyncClient, tmp_path: Path, change: str) -> None:
    rows = [line(index, image=f"{index}.png") for index in range(3)]
    source = write(tmp_path / "text-image-to-text" / "rows.jsonl", rows)
    for index in range(2):
        (source.parent / f"{index}.png").write_bytes(png(index))
    first = await run(client, source.parent)
    assert first.rows_quarantined == 1
    assert (await run(client, source.parent)).rows_skipped == 3
    if change == "removed":
        (source.parent / "1.png").unlink()
    else:
        (source.parent / {"replaced": "1.png", "added": "2.png"}[change]).write_bytes(png(7))
    done = await run(client, source.parent)
    assert done.rows_skipped == 0
    assert done.rows_quarantined == {"replaced": 1, "removed": 2, "added": 0}[change]


async def test_another_upload_of_the_same_files_is_known_again(client: AsyncClient, tmp_path: Path) -> None:
    source = write(tmp_path / "text-image-to-text" / "rows.jsonl", [line(1, image="1.png")])
    (source.parent / "1.png").write_bytes(png(1))
    for skipped in (0, 1):
        upload = await client.upload_files(source.parent, keep_name=True)
        done = await run(client, Path(upload))
        assert (done.rows_skipped, done.records_imported) == (skipped, 1)
        os.utime(source.parent / "1.png", (skipped, skipped))


async def test_a_row_that_another_file_no_longer_has_is_taken_from_the_one_that_has_it(
    client: AsyncClient, tmp_path: Path
) -> None:
    write(tmp_path / "t2t-a.jsonl", [line(1), line(2)])
    write(tmp_path / "t2t-b.jsonl", [line(2), line(3)])
    first = await run(client, tmp_path)
    assert (first.dataset_version.record_count, first.repeated_rows[0].rows) == (3, 1)
    write(tmp_path / "t2t-a.jsonl", [line(1)])
    done = await run(client, tmp_path)
    assert (done.dataset_version.record_count, list(done.repeated_rows)) == (3, [])


async def stopped(client: AsyncClient, source: Path, when: Callable[[Progress], bool], **options: Any) -> None:
    """An import that its caller leaves."""
    events = client.import_dataset("kept", str(source), winner_labels=(1, 2), **options)
    async for done in events:
        if when(done):
            await events.aclose()  # type: ignore[attr-defined] # it is a generator
            return
    raise AssertionError("it ended first")


@pytest.mark.parametrize("suffix", [".jsonl", ".json"])
async def test_an_import_that_was_left_goes_on_where_it_was(
    client: AsyncClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    monkeypatch.setattr(import_run, "WRITE_RECORDS", 100)
    monkeypatch.setattr("services.data.importing.pace.SHOWN_SECONDS", 0.0)
    monkeypatch.setattr("services.data.importing.reading_ahead.AHEAD_PIECES", 1)
    monkeypatch.setattr(pieces, "PIECE_ROWS", 50)
    lines = [line(index % 1400, overall_response=1 + index % 40 // 38) for index in range(1500)]
    lines[700]["overall_response"] = 9
    source = tmp_path / f"t2t{suffix}"
    source.write_text(json.dumps(lines) if suffix == ".json" else "".join(json.dumps(one) + "\n" for one in lines))
    await stopped(client, source, lambda done: done.records_imported >= 100)
    done = await run(client, source)
    calm = await run(client, source, "calm")
    assert 100 <= done.rows_skipped < 1500
    assert counts(done) == counts(calm)
    assert await content(client) == await content(client, "calm")


async def test_what_is_no_journal_is_passed_over_and_removed_once_nobody_can_be_writing_it(
    client: AsyncClient, tmp_path: Path
) -> None:
    source = write(tmp_path / "t2t.jsonl", [line(1)])
    await run(client, source)
    (folder,) = (tmp_path / "state" / "imports").iterdir()
    for name in ("old", "new"):
        (folder / name).write_bytes(b"OMNIIMP1 is how it begins")
    os.utime(folder / "old", (0, 0))
    assert (await run(client, source)).rows_skipped == 1
    assert {path.name for path in folder.iterdir()} & {"old", "new"} == {"new"}


async def test_many_small_objects_of_a_journal_become_one(
    client: AsyncClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.data.importing.journal.MAX_SMALL", 3)
    sources = [write(tmp_path / f"t2t-{index}.jsonl", [line(index), line(50 + index)]) for index in range(6)]
    for source in sources:
        await run(client, source)
    (folder,) = (tmp_path / "state" / "imports").iterdir()
    assert len(list(folder.iterdir())) <= 3
    assert [(await run(client, source)).rows_skipped for source in sources] == [2] * 6


async def test_a_journal_goes_with_its_dataset(client: AsyncClient, serving: Any, tmp_path: Path) -> None:
    source = write(tmp_path / "t2t.jsonl", [line(1)])
    journals = tmp_path / "other" / "imports"
    async with serving(tmp_path / "other", sweep_seconds=0.05) as swept:
        await run(swept, source)
        assert len(list(journals.rglob("*-*"))) >= 2  # the folder and an object
        await swept.delete_dataset(NAME.format("kept"))
        assert not [path for path in journals.rglob("*") if path.is_file()]
        orphan = journals / "a-dataset-that-is-gone" / "1"
        orphan.parent.mkdir(parents=True)
        orphan.write_bytes(b"")
        ends = time.monotonic() + 10
        while orphan.exists() and time.monotonic() < ends:
            [one async for one in swept.list_datasets()]
        assert not orphan.exists()
