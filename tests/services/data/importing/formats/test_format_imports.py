"""Imports over gRPC of files in other formats than align-anything's, as `datasets` and people write them."""

import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest

from omnialign.client import AsyncClient
from omnialign.errors import FailedPrecondition, InvalidArgument
from omnialign.media import write_audio, write_image, write_video
from omnialign.v1 import data_service_pb2, record_pb2
from tests.services.data.importing.formats.rows_of_formats import ASKED, NO, SAID

NAME = "projects/default/datasets/imported"


def png(seed: int) -> bytes:
    return write_image(np.random.default_rng(seed).integers(0, 255, (8, 8, 3), dtype=np.uint8))


async def run(client: AsyncClient, source: Path, **options: Any) -> data_service_pb2.ImportDatasetResponse:
    return [one async for one in client.import_dataset("imported", str(source), **options)][-1]


async def records(client: AsyncClient) -> list[record_pb2.Record]:
    return [record async for record in client.stream_records(NAME)]


def kinds(record: record_pb2.Record) -> list[str]:
    return [part.text or part.media.mime_type for part in record.prompt.parts]


def write_lines(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


async def test_features_of_datasets_come_in_with_their_types(client: AsyncClient, tmp_path: Path) -> None:
    tone = (np.sin(np.arange(800) / 5) * 0.5).astype(np.float32)
    (tmp_path / "c.mp4").write_bytes(write_video(np.zeros((4, 16, 16, 3), dtype=np.uint8), 4))
    features = datasets.Features(
        {
            "messages": datasets.List({"role": datasets.Value("string"), "content": datasets.Value("string")}),
            "rejected_response": datasets.Value("string"),
            "images": datasets.List(datasets.Image()),
            "audios": datasets.List(
                {"array": datasets.List(datasets.Value("float32")), "sampling_rate": datasets.Value("int64")}
            ),
            "videos": datasets.List({"bytes": datasets.Value("binary"), "path": datasets.Value("string")}),
        }
    )
    asked = {"role": "user", "content": "<image> and <image>, then <audio>, then <video>?"}
    row = {
        "messages": [asked, *SAID],
        "rejected_response": "No.",
        "images": [{"bytes": png(1), "path": None}, {"bytes": png(3), "path": "d.png"}],
        "audios": [{"array": tone, "sampling_rate": 8000}],
        "videos": [{"bytes": (tmp_path / "c.mp4").read_bytes(), "path": None}],
    }
    table = datasets.Dataset.from_dict({name: [found] for name, found in row.items()}, features=features)
    table.to_parquet(tmp_path / "rows.parquet")
    done = await run(client, tmp_path)
    assert [(file.format, file.told_by) for file in done.file_formats] == [
        ("ms_swift", "the columns messages and rejected_response")
    ]
    (record,) = await records(client)
    png_, wav, mp4 = "image/png", "audio/wav", "video/mp4"
    assert kinds(record) == [png_, " and ", png_, ", then ", wav, ", then ", mp4, "?"]
    assert record.subtask == "tiav2t"
    assert record.labels["audio"] == "samples, written as WAV"


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
async def test_lists_of_typed_features_come_in_as_they_are(client: AsyncClient, tmp_path: Path, kind: str) -> None:
    tone, film = write_audio(np.zeros(400, dtype=np.float32), 8000), write_video(np.zeros((4, 16, 16, 3), np.uint8), 4)
    features = datasets.Features(
        {
            "prompt": datasets.Value("string"),
            "completion": datasets.Value("string"),
            "label": datasets.Value("bool"),
            "images": datasets.List(datasets.Image()),
            "audios": datasets.List(datasets.Audio()),
            "videos": datasets.List(datasets.Video()),
        }
    )
    row = {"prompt": "What?", "completion": "That.", "label": True}
    found = {"images": [png(1), png(2)], "audios": [tone], "videos": [film]}
    whole = row | {name: [{"bytes": data, "path": None} for data in several] for name, several in found.items()}
    # Cast, as `datasets` encodes sounds with torchcodec, which reads them again.
    table = datasets.Dataset.from_dict({name: [one] for name, one in whole.items()}).cast(features)
    assert table.features == features
    if kind == "parquet":
        table.to_parquet(tmp_path / "rows.parquet")
    else:
        table.save_to_disk(tmp_path / "saved")
    done = await run(client, tmp_path)
    assert (done.records_imported, list(done.unread_columns)) == (1, [])
    (record,) = await records(client)
    media = [part.media for part in record.prompt.parts if part.HasField("media")]
    stored = [await client.get_media(medium.sha256) for medium in media]
    assert stored == [png(1), png(2), tone, film]
    assert record.responses[0].good and "audio" not in record.labels


async def test_images_and_samples_lie_beside_the_rows_of_trl(client: AsyncClient, tmp_path: Path) -> None:
    pair = {"chosen": SAID, "rejected": NO}
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(png(1))
    tone = (np.sin(np.arange(800) / 5) * 0.5).tolist()
    content = [{"type": "audio"}, {"type": "text", "text": "What?"}, {"type": "image"}]
    write_lines(
        tmp_path / "rows.jsonl",
        {"prompt": ASKED, **pair},
        {"prompt": [{"role": "user", "content": content}], "images": ["a.png"],
         "audios": [{"array": tone, "sampling_rate": 8000}], **pair},
        {"prompt": "x", "image": "a.png", "chosen": "a"},
    )  # fmt: skip
    done = await run(client, tmp_path)
    assert (done.records_imported, dict(done.quarantine_reasons)) == (2, {"RESPONSE_MISSING": 1})
    found = {record.subtask: kinds(record) for record in await records(client)}
    assert found == {"t2t": ["Name a fruit."], "tia2t": ["audio/wav", "What?", "image/png"]}


async def test_the_format_and_the_columns_can_be_said(client: AsyncClient, tmp_path: Path) -> None:
    source = write_lines(tmp_path / "rows.jsonl", {"ask": "a", "good": "b", "bad": "c"})
    with pytest.raises(InvalidArgument) as untold:
        await run(client, source)
    assert untold.value.reason == "SUBTASK_UNKNOWN"
    assert "The columns of rows.jsonl tell no format: ask, good, bad. Say what" in untold.value.message
    columns = {"ask": "prompt", "good": "chosen", "bad": "rejected"}
    assert (await run(client, source, renamed_columns=columns)).file_formats[0].format == "trl"
    done = await run(client, source, renamed_columns=columns, format="trl")
    assert (done.records_imported, done.file_formats[0].told_by) == (1, "the request")
    with pytest.raises(InvalidArgument) as wrong:
        await run(client, source, renamed_columns=columns, format="sharegpt")
    assert wrong.value.reason == "ANSWERS_UNREAD"
    with pytest.raises(FailedPrecondition) as empty:
        await run(client, source, format="messages")
    assert "no prompt in messages; its columns are ask, good, bad" in empty.value.violations[0][1]
    with pytest.raises(InvalidArgument) as unknown:
        await run(client, source, format="parquet")
    assert unknown.value.reason == "FORMAT_UNKNOWN" and "llama_factory" in unknown.value.message


async def test_a_row_in_another_format_than_its_file_is_set_aside(client: AsyncClient, tmp_path: Path) -> None:
    pair = {"prompt": "a", "chosen": "b", "rejected": "c"}
    annotated = {"question": "a", "response_1": "b", "response_2": "c", "overall_response": 2}
    write_lines(tmp_path / "text-to-text.jsonl", pair, {"messages": ASKED + SAID}, annotated)
    done = await run(client, tmp_path)
    assert (done.records_imported, dict(done.quarantine_reasons)) == (1, {"FORMAT_DIFFERS": 2})
    found = {record.labels["format"]: record.quarantine.message async for record in client.stream_quarantine(NAME)}
    assert found["messages"].endswith("in the format messages, told by the column messages, and the file in trl.")
    assert "in the format align_anything, told by the column overall_response" in found[""]


async def test_labels_of_single_answers_are_true_or_false_and_numbers_are_not_guessed(
    client: AsyncClient, tmp_path: Path
) -> None:
    rows = [{"prompt": "a", "completion": "b", "label": good} for good in (True, False, None, 1)]
    done = await run(client, write_lines(tmp_path / "rows.jsonl", *rows))
    assert (done.records_imported, dict(done.quarantine_reasons)) == (3, {"LABEL_INVALID": 1})
    labels = [one.responses[0].good if one.responses[0].HasField("good") else None for one in await records(client)]
    assert sorted(map(str, labels)) == ["False", "None", "True"]


async def test_grades_that_a_record_cannot_hold_refuse_the_file(client: AsyncClient, tmp_path: Path) -> None:
    source = write_lines(tmp_path / "rows.jsonl", {"prompt": "a", "completion": "b", "score": 5})
    with pytest.raises(InvalidArgument) as refused:
        await run(client, source)
    assert (refused.value.reason, refused.value.metadata["columns"]) == ("ANSWERS_UNREAD", "score")
    assert "another format than trl" in refused.value.message
    assert (await run(client, source, ignored_columns=["score"])).records_imported == 1


async def test_ratings_on_another_scale_refuse_the_file_until_it_is_declared(
    client: AsyncClient, tmp_path: Path
) -> None:
    row = {"prompt": "a", "response": "b", "helpfulness": 3, "verbosity": 0}
    source = write_lines(tmp_path / "rows.jsonl", row)
    with pytest.raises(InvalidArgument) as refused:
        await run(client, source)
    assert refused.value.reason == "SCORES_UNEXPECTED"
    assert "`--score-range 0 4`" in refused.value.message
    await run(client, source, score_range=(0, 4))
    (record,) = await records(client)
    assert [score.score for score in record.responses[0].feedback.scores] == [2, 0]


async def test_a_corrected_row_of_another_subtask_takes_the_place_of_the_one_set_aside(
    client: AsyncClient, tmp_path: Path
) -> None:
    (tmp_path / "a.png").write_bytes(png(1))
    pair = {"id": "7", "prompt": "What?", "chosen": "a", "rejected": "b"}
    source = write_lines(tmp_path / "rows.jsonl", pair | {"image": "missing.png"}, pair | {"id": "8"})
    assert (await run(client, tmp_path)).rows_quarantined == 1
    write_lines(source, pair | {"image": "a.png"}, pair | {"id": "8"})
    assert dict((await run(client, tmp_path)).subtask_counts) == {"ti2t": 1, "t2t": 1}
    assert [record async for record in client.stream_quarantine(NAME)] == []
