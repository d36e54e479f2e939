"""Files that were once misread or lost without a word: what becomes of each, from `tests/cases`."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from omnialign.client import AsyncClient
from omnialign.content import ROLES, media_of
from omnialign.errors import InvalidArgument
from omnialign.v1 import content_pb2, data_service_pb2, record_pb2

CASES = Path(__file__).parents[3] / "cases"
NAME = "projects/default/datasets/imported"


async def run(client: AsyncClient, source: Path, **options: Any) -> data_service_pb2.ImportDatasetResponse:
    found = [one async for one in client.import_dataset("imported", str(source), **options)]
    return found[-1]


async def refused(client: AsyncClient, source: Path, **options: Any) -> InvalidArgument:
    with pytest.raises(InvalidArgument) as caught:
        await run(client, source, **options)
    assert [found async for found in client.list_datasets()] == [], "a refused import leaves no dataset"
    return caught.value


async def records(client: AsyncClient) -> dict[str, record_pb2.Record]:
    """The records by the beginning of their prompt."""
    found = [record async for record in client.stream_records(NAME)]
    return {next(part.text for part in record.prompt.parts if part.text): record for record in found}


async def quarantined(client: AsyncClient) -> list[record_pb2.Quarantine]:
    return [record.quarantine async for record in client.stream_quarantine(NAME)]


def shown(message: content_pb2.Content) -> list[str]:
    """The parts in order: texts as they are, media as the beginning of their digests."""
    return [part.text or part.media.sha256[:6] for part in message.parts]


@pytest.mark.parametrize(
    ("case", "form", "told_by", "ignored", "better"),
    [
        ("trl-chosen-rejected", "trl", "the columns chosen and rejected", ("chosen", "rejected"), "One, two."),
        ("argilla-preference-column", "argilla", "the column preference.responses",
         ("preference.responses", "preference.status"), "0!"),
    ],
)  # fmt: skip
async def test_preferences_of_other_tools_come_in_and_are_never_lost(
    client: AsyncClient, case: str, form: str, told_by: str, ignored: tuple[str, ...], better: str
) -> None:
    error = await refused(client, CASES / case, format="align-anything")
    assert (error.reason, error.metadata["columns"]) == ("ANSWERS_UNREAD", ",".join(ignored))
    done = await run(client, CASES / case)
    assert [(file.format, file.told_by) for file in done.file_formats] == [(form, told_by)]
    found = [record async for record in client.stream_records(NAME)]
    assert len(found) == done.records_imported == 3
    preferred = [shown(record.responses[record.preference.preferred - 1].content) for record in found]
    assert [better] in preferred
    alone = await run(client, CASES / case, ignored_columns=ignored)
    assert (alone.records_imported, alone.file_formats[0].format) == (3, "align_anything")


async def test_a_conversation_as_prompt_keeps_its_roles(client: AsyncClient) -> None:
    done = await run(client, CASES / "conversation-prompt")
    assert (done.records_imported, dict(done.quarantine_reasons)) == (2, {})
    record = (await records(client))["Name a river."]
    assert [(ROLES[one.role], shown(one.content)) for one in record.history] == [
        ("user", ["Hello"]),
        ("assistant", ["Hi"]),
    ]
    assert (record.subtask, record.preference.preferred) == ("t2t", 2)
    assert record.responses[1].feedback.scores[0].score == 3


async def test_another_scale_refuses_the_file_until_it_is_declared(client: AsyncClient) -> None:
    error = await refused(client, CASES / "ratings-1-to-5")
    found = (error.reason, error.metadata["lowest"], error.metadata["highest"])
    assert found == ("SCORES_UNEXPECTED", "1", "5")
    assert (await run(client, CASES / "ratings-1-to-5", score_range=(1, 5))).records_imported == 4
    scores = {
        prompt: [response.feedback.scores[0].score for response in record.responses]
        for prompt, record in (await records(client)).items()
    }
    assert scores == {"Is 0 even?": [3, 2], "Is 1 even?": [2, 1], "Is 2 even?": [0, 2], "Is 3 even?": [1, 3]}


async def test_labels_from_0_refuse_the_file_until_they_are_declared(client: AsyncClient) -> None:
    error = await refused(client, CASES / "labels-0-and-1")
    assert (error.reason, error.metadata["columns"]) == ("LABELS_UNEXPECTED", "overall_response")
    await run(client, CASES / "labels-0-and-1", winner_labels=(0, 1))
    found = {prompt: record.preference.preferred for prompt, record in (await records(client)).items()}
    assert found == {f"Is {number} odd?": number % 2 + 1 for number in range(4)}


async def test_a_corrected_file_replaces_what_it_gave_before(client: AsyncClient) -> None:
    first = await run(client, CASES / "reimport-after-correction" / "first")
    assert (first.dataset_version.record_count, first.rows_quarantined) == (2, 1)
    second = await run(client, CASES / "reimport-after-correction" / "second")
    assert (second.dataset_version.record_count, second.records_imported, second.records_removed) == (3, 3, 1)
    found = {prompt: record.preference.preferred for prompt, record in (await records(client)).items()}
    assert found == {"Is ice cold?": 2, "Is fire cold?": 1, "Is tea hot?": 2}
    assert await quarantined(client) == []
    appended = await run(client, CASES / "reimport-after-correction" / "first", append=True)
    assert (appended.dataset_version.record_count, appended.records_removed) == (4, 0)


async def test_rows_with_ids_stay_the_same_records_when_they_are_corrected(client: AsyncClient) -> None:
    await run(client, CASES / "reimport-with-ids" / "first")
    before = {prompt: record.id for prompt, record in (await records(client)).items()}
    done = await run(client, CASES / "reimport-with-ids" / "second")
    assert (done.dataset_version.record_count, done.records_imported, done.records_removed) == (3, 3, 1)
    after = await records(client)
    found = {prompt: record.preference.preferred for prompt, record in after.items()}
    assert found == {"Is a lake wet?": 1, "Is a lake salty?": 2, "Is a lake flat?": 1}
    assert after["Is a lake wet?"].id == before["Is a lake wet?"]
    assert after["Is a lake salty?"].id == before["Is a laek salty?"], "the prompt was corrected, too"


async def test_rows_of_several_files_are_imported_once_and_reported(client: AsyncClient) -> None:
    done = await run(client, CASES / "same-rows-thrice")
    assert dict(done.subtask_counts) == {"t2t": 4}, "two rows of two splits"
    folder = "text-to-text"
    found = {(rows.file, rows.earlier_file, rows.rows, rows.left_out) for rows in done.repeated_rows}
    assert found == {
        (f"{folder}/test.jsonl", f"{folder}/new/train.jsonl", 2, False),
        (f"{folder}/train.jsonl", f"{folder}/new/train.jsonl", 2, True),
        (f"{folder}/train/part.jsonl", f"{folder}/new/train.jsonl", 2, True),
    }


async def test_what_is_not_data_in_a_folder_is_skipped_and_listed(client: AsyncClient) -> None:
    done = await run(client, CASES / "hub-clone")
    assert done.records_imported == 2
    skipped = {file.file: file.why for file in done.skipped_files}
    assert set(skipped) == {"README.md", "dataset_infos.json", "text-to-text/test-00000-of-00001.parquet"}
    assert "git lfs pull" in skipped["text-to-text/test-00000-of-00001.parquet"]


async def test_media_stand_where_their_markers_stood(client: AsyncClient) -> None:
    await run(client, CASES / "placeholder-at-end")
    found = await records(client)
    one = next(media_of([found["Which colour is this?"].prompt])).sha256[:6]
    two = [media.sha256[:6] for media in media_of([found["Compare "].prompt])][1]
    assert {prompt: shown(record.prompt) for prompt, record in found.items()} == {
        "Which colour is this?": ["Which colour is this?", one],
        "Compare ": ["Compare ", one, " with ", two, "."],
        "First ": ["First ", two, ", then ", one, "."],
        "What does the tag <image> do?": [one, "What does the tag <image> do?"],
    }


async def test_one_row_never_ends_an_import(client: AsyncClient) -> None:
    done = await run(client, CASES / "bytes-huge-int")
    assert (done.records_imported, dict(done.quarantine_reasons)) == (2, {"MEDIA_UNDECODABLE": 1})
    (found,) = await quarantined(client)
    assert found.message == (
        "text-image-to-text.jsonl, row 2, column image: `bytes` holds a number, and bytes are taken."
    )


async def test_the_mended_rows_of_a_quarantine_take_their_places(client: AsyncClient, tmp_path: Path) -> None:
    """As `omnialign data quarantine --export` writes them."""
    from omnialign.cli.quarantine import export_rows

    source = shutil.copytree(CASES / "reimport-after-correction" / "first", tmp_path / "first")
    await run(client, source)
    await export_rows(client.stream_quarantine(NAME), tmp_path / "mend")
    path = tmp_path / "mend" / "text-to-text.jsonl"
    path.write_text(path.read_text().replace('"overall_response": 0', '"overall_response": 2'))
    done = await run(client, tmp_path / "mend", append=True)
    assert (done.records_imported, done.dataset_version.record_count) == (1, 3)
    assert not done.unread_columns
    assert await quarantined(client) == []
