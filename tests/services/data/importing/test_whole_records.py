"""Whole records keep their ids when they are imported, and never silently take the place of others."""

import asyncio
import hashlib
import itertools
import json
import sqlite3
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from omnialign.client import AsyncClient
from omnialign.content import text_of
from omnialign.exporting import export
from omnialign.media import write_image
from omnialign.v1 import data_service_pb2, record_pb2
from services.data.importing import import_run, pieces
from tests.services.data.importing.test_journal import stopped

PARENT = "projects/default/datasets"
PAIR = {"chosen": "Pear.", "rejected": "No."}


async def run(
    client: AsyncClient, dataset: str, source: Path, **options: Any
) -> data_service_pb2.ImportDatasetResponse:
    return [one async for one in client.import_dataset(dataset, str(source), **options)][-1]


async def records(client: AsyncClient, dataset: str) -> dict[str, record_pb2.Record]:
    return {record.id: record async for record in client.stream_records(f"{PARENT}/{dataset}")}


async def aside(client: AsyncClient, dataset: str) -> list[record_pb2.Record]:
    return [record async for record in client.stream_quarantine(f"{PARENT}/{dataset}")]


def write_lines(path: Path, *rows: Any) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def whole(name: str, said: str = "Name a fruit.", **more: Any) -> dict[str, Any]:
    return {"id": name, "subtask": "t2t", "split": "train", "prompt": {"parts": [{"text": said}]}, **more}


@pytest.mark.parametrize("form", ["records", "webdataset"])
async def test_what_is_exported_and_imported_again_does_not_differ(
    client: AsyncClient, tmp_path: Path, form: str
) -> None:
    rows = [{"prompt": f"Name fruit {number}.", **PAIR} for number in range(3)]
    await run(client, "first", write_lines(tmp_path / "rows.jsonl", *rows, rows[0]))
    await export(client.stream_records(f"{PARENT}/first"), tmp_path / "out", form=form, read=client.fetch_media)
    done = await run(client, "again", tmp_path / "out")
    assert (done.records_imported, done.records_replaced, done.rows_quarantined) == (4, 0, 0)
    *_, counts = [one async for one in client.compare_datasets(f"{PARENT}/first", f"{PARENT}/again")]
    assert (counts.equal_count, counts.added_count, counts.removed_count, counts.changed_count) == (4, 0, 0, 0)
    into_itself = await run(client, "first", tmp_path / "out")
    assert (into_itself.dataset_version.name, into_itself.records_replaced) == (f"{PARENT}/first/versions/1", 0)


async def test_media_that_a_response_was_put_together_from_are_the_datasets(
    client: AsyncClient, tmp_path: Path
) -> None:
    picture = write_image(np.zeros((2, 2, 3), np.uint8))
    digest = hashlib.sha256(picture).hexdigest()
    drawn = {"media": {"modality": "MODALITY_IMAGE", "mimeType": "image/png", "sha256": digest}}
    answer = {"content": {"parts": [{"text": "See."}]}, "made_of": [{"content": {"parts": [drawn]}, "source": "tool"}]}
    source = write_lines(
        tmp_path / "in" / "records.jsonl", whole("a", responses=[answer], media_files={digest: "one.png"})
    )
    (source.parent / "one.png").write_bytes(picture)
    done = await run(client, "composed", source)
    assert (done.records_imported, done.media_bytes) == (1, len(picture))
    with sqlite3.connect(tmp_path / "state" / "data.db") as database:
        assert database.execute("SELECT key FROM held_objects").fetchall() == [(digest,)]


async def test_of_two_rows_with_one_id_the_second_is_set_aside_and_can_be_mended(
    client: AsyncClient, tmp_path: Path
) -> None:
    source = write_lines(tmp_path / "in" / "records.jsonl", whole("a"), "", whole("b"), whole("a", "Name a river."))
    source.write_text(source.read_text().replace('""\n', "\n"))
    done = await run(client, "twice", source)
    assert (done.records_imported, dict(done.quarantine_reasons)) == (2, {"ID_TAKEN": 1})
    (found,) = await aside(client, "twice")
    assert found.quarantine.message == (
        "records.jsonl, row 4, column id: an earlier row of this import has the id 'a', and each record has one of its "
        "own."
    )
    row = json.loads(found.quarantine.row_json)
    assert (row["id"], found.labels["format"]) == ("a", "records")
    again = await run(client, "twice", source)
    assert (again.rows_skipped, dict(again.quarantine_reasons)) == (0, {"ID_TAKEN": 1}), (
        "another row may have the id now"
    )
    mended = {**row, "id": "c", "_quarantine": {"id": found.id}}
    await run(client, "twice", write_lines(tmp_path / "mended" / "records.jsonl", mended), append=True)
    assert {name: text_of(one.prompt) for name, one in (await records(client, "twice")).items()} == {
        "a": "Name a fruit.", "b": "Name a fruit.", "c": "Name a river."
    }  # fmt: skip
    assert await aside(client, "twice") == []


async def test_a_record_replaces_the_one_with_its_id_and_is_counted_or_set_aside_where_it_appends(
    client: AsyncClient, tmp_path: Path
) -> None:
    await run(client, "taken", write_lines(tmp_path / "one" / "records.jsonl", whole("a"), whole("b")))
    source = write_lines(tmp_path / "two" / "records.jsonl", whole("b", "Name a river."), whole("c"))
    kept = await run(client, "taken", source, append=True)
    assert (kept.records_imported, dict(kept.quarantine_reasons)) == (1, {"ID_TAKEN": 1})
    assert "the dataset has another record with the id 'b', and" in (await aside(client, "taken"))[0].quarantine.message
    done = await run(client, "taken", source)
    assert (done.records_imported, done.records_replaced, done.records_removed) == (2, 1, 0)
    found = await records(client, "taken")
    assert {name: text_of(one.prompt) for name, one in found.items()} == {
        "a": "Name a fruit.", "b": "Name a river.", "c": "Name a fruit."
    }, "a file without a record removes none"  # fmt: skip
    assert await aside(client, "taken") == []
    skipped = await run(client, "taken", source)
    assert (skipped.rows_skipped, skipped.records_replaced) == (2, 1), "as that of one that ran through"
    before = [one async for one in client.stream_records(f"{PARENT}/taken/versions/1")]
    assert [text_of(one.prompt) for one in before] == ["Name a fruit."] * 2


async def test_an_export_beside_its_source_takes_nothing_from_it(client: AsyncClient, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    rows = [{"prompt": f"Name fruit {number}.", **PAIR} for number in range(3)]
    write_lines(folder / "rows.jsonl", *rows)
    await run(client, "mixed", folder)
    first, second, third = sorted(await records(client, "mixed"))
    # One that differs from a row beside it, one of a row that is no longer there, and one of its own.
    kept = [whole(first, "Name a river."), whole(third, "Name a lake."), whole("own")]
    write_lines(folder / "records.jsonl", *kept)
    sources = {name: text_of(one.prompt) for name, one in (await records(client, "mixed")).items()}
    write_lines(folder / "rows.jsonl", *(row for row in rows if row["prompt"] != sources[third]))
    for _ in range(2):
        done = await run(client, "mixed", folder)
        assert (done.records_removed, dict(done.quarantine_reasons)) == (0, {"ID_TAKEN": 1})
        found = {name: text_of(one.prompt) for name, one in (await records(client, "mixed")).items()}
        assert found == {first: "Name a river.", second: sources[second], third: "Name a lake.", "own": "Name a fruit."}
        assert (await aside(client, "mixed"))[0].quarantine.source_file == "rows.jsonl"


async def test_an_import_waits_for_what_one_that_was_left_still_writes(
    client: AsyncClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(import_run, "WRITE_RECORDS", 100)
    monkeypatch.setattr("services.data.importing.pace.SHOWN_SECONDS", 0.0)
    names = [f"{number:04d}" for number in range(1200)]
    before = write_lines(tmp_path / "before" / "records.jsonl", *(whole(name, "Name a river.") for name in names))
    await run(client, "kept", before)
    note, count, is_reached, may_go_on = import_run._note, itertools.count(), threading.Event(), threading.Event()

    def waits(*args: Any) -> None:
        if next(count) == 7:  # one of the second piece: it is in the table, and not yet in the journal
            is_reached.set()
            assert may_go_on.wait(20)
        note(*args)

    monkeypatch.setattr(import_run, "_note", waits)
    source = write_lines(tmp_path / "after" / "records.jsonl", *map(whole, names))
    left = client.import_dataset("kept", str(source), winner_labels=(1, 2))
    assert await anext(left)
    assert await asyncio.to_thread(is_reached.wait, 20)
    await left.aclose()  # type: ignore[attr-defined] # it is a generator
    following = asyncio.create_task(run(client, "kept", source, winner_labels=(1, 2)))
    await asyncio.wait([following], timeout=2.0)  # it would have ended by then
    may_go_on.set()
    done = await following
    assert (done.records_imported, done.records_replaced) == (1200, 1200)


async def test_an_import_that_was_left_goes_on_and_counts_what_it_replaced_once(
    client: AsyncClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(import_run, "WRITE_RECORDS", 100)
    monkeypatch.setattr("services.data.importing.pace.SHOWN_SECONDS", 0.0)
    monkeypatch.setattr("services.data.importing.reading_ahead.AHEAD_PIECES", 1)
    monkeypatch.setattr(pieces, "PIECE_ROWS", 50)
    names = [f"{number:04d}" for number in range(600)]
    before = write_lines(tmp_path / "before" / "records.jsonl", *(whole(name, "Name a river.") for name in names[:300]))
    source = write_lines(tmp_path / "after" / "records.jsonl", *map(whole, names))
    for dataset in ("kept", "calm"):
        await run(client, dataset, before)
    await stopped(client, source, lambda done: done.records_imported >= 100)
    done, calm = [await run(client, dataset, source, winner_labels=(1, 2)) for dataset in ("kept", "calm")]
    assert 100 <= done.rows_skipped < 600
    assert (
        (done.records_imported, done.records_replaced) == (calm.records_imported, calm.records_replaced) == (600, 300)
    )
    assert await records(client, "kept") == await records(client, "calm")


async def test_scores_of_whole_records_are_not_said_to_be_converted(client: AsyncClient, tmp_path: Path) -> None:
    rated = {"responses": [{"content": {}, "feedback": {"scores": [{"dimension": "clarity", "score": 2}]}}]}
    await run(client, "rated", write_lines(tmp_path / "records.jsonl", whole("a", **rated)), score_range=(1, 5))
    (record,) = (await records(client, "rated")).values()
    assert (record.responses[0].feedback.scores[0].score, dict(record.labels)) == (2, {})
