"""Published benchmark files, in their own columns and with real media, imported over gRPC."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from omnialign.client import AsyncClient
from omnialign.content import text_of
from omnialign.errors import InvalidArgument
from omnialign.media import write_audio, write_image, write_video
from omnialign.v1 import content_pb2, data_service_pb2, record_pb2

NAME = "projects/default/datasets/items"
Row = dict[str, Any]
RANDOM = np.random.default_rng(0)
PNG = write_image(RANDOM.integers(0, 255, (8, 8, 3), dtype=np.uint8))
WAV = write_audio(RANDOM.random(400, dtype=np.float32) - 0.5, 8000)
MP4 = write_video(RANDOM.integers(0, 255, (4, 16, 16, 3), dtype=np.uint8), 4)
TEN = [{"answer": f"a heron {n}", "keywords": {"visual": ["heron", "lake"], "auditory": [f"call {n}"]}}
       for n in range(10)]  # fmt: skip


def amu(number: int, **more: Any) -> Row:
    return {
        "question_id": number,
        "evaluation_dimension": "reasoning",
        "question": f"Which bird is it? {number}",
        "visual_modality_path": "visual/heron.png",
        "auditory_modality_path": "auditory/call.wav",
        "annotations": TEN,
    } | more


def question(prompt: int, number: int, **more: Any) -> Row:
    return {
        "prompt_id": prompt,
        "question_id": number,
        "prompt": f"rain on a roof {prompt}",
        "question": "What falls?",
        "choice": "A. rain B. snow C. hail D. leaves",
        "answer": "A",
    } | more


def shares(**votes: float) -> Row:
    return {"instruction_uid": "5f3a", "instruction": "Show me a bell.", "selection": votes}


def pair(**more: Any) -> Row:
    return {
        "id": "vl-1", "query": "What is it?", "response": ["a heron", "a stork"], "image": {"bytes": PNG, "path": None},
        "human_ranking": [1, 0], "models": ["one", "two"], "judge": "x", "query_source": "wildvision",
    } | more  # fmt: skip


def media(folder: Path) -> Path:
    for name, data in (("visual/heron.png", PNG), ("visual/heron.mp4", MP4), ("auditory/call.wav", WAV)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def write(folder: Path, rows: list[Row], name: str = "test.json") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    if name.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(rows), folder / name)
    else:
        (folder / name).write_text(json.dumps(rows, default=lambda found: None))
    return folder


async def run(client: AsyncClient, source: Path, **options: Any) -> data_service_pb2.ImportDatasetResponse:
    return [one async for one in client.import_dataset("items", str(source), **options)][-1]


async def read(client: AsyncClient) -> list[record_pb2.Record]:
    return sorted([record async for record in client.stream_records(NAME)], key=lambda one: text_of(one.prompt))


async def quarantine(client: AsyncClient) -> list[record_pb2.Record]:
    found = [record async for record in client.stream_quarantine(NAME)]
    return sorted(found, key=lambda one: one.quarantine.source_row)


def kinds(message: content_pb2.Content) -> str:
    return " ".join(part.media.mime_type if part.WhichOneof("part") == "media" else "text" for part in message.parts)


async def test_understanding_has_media_of_both_kinds_and_ten_references(client: AsyncClient, tmp_path: Path) -> None:
    rows = [amu(1), amu(2, visual_modality_path="visual/heron.mp4", evaluation_dimension="instruction-following")]
    done = await run(client, write(media(tmp_path / "EvalAnything-AMU"), rows, "config.json"))
    assert (done.rows_read, done.records_imported, done.rows_quarantined) == (2, 2, 0)
    assert dict(done.subtask_counts) == {"tia2t": 1, "tav2t": 1}
    assert not done.unread_columns
    still, moving = await read(client)
    assert (kinds(still.prompt), still.subtask, still.split) == ("image/png audio/wav text", "tia2t", "test")
    assert (kinds(moving.prompt), moving.subtask) == ("video/mp4 audio/wav text", "tav2t")
    assert (still.benchmark_item.category, moving.benchmark_item.category) == ("reasoning", "instruction_following")
    assert dict(still.labels) == {"benchmark": "amu"}
    assert len(still.benchmark_item.references) == 10
    reference = moving.benchmark_item.references[3]
    assert reference.answer == "a heron 3"
    assert {name: list(found.terms) for name, found in reference.key_terms.items()} == {
        "video": ["heron", "lake"], "audio": ["call 3"],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("more", "reason", "column"),
    [
        ({"annotations": TEN[:9]}, "REFERENCES_COUNT", "annotations"),
        ({"annotations": [*TEN, TEN[0]]}, "REFERENCES_COUNT", "annotations"),
        ({"annotations": [*TEN[:9], {"answer": "", "keywords": {}}]}, "REFERENCES_INVALID", "annotations"),
        ({"annotations": [*TEN[:9], {"answer": "x", "keywords": {"visual": "y", "auditory": []}}]},
         "REFERENCES_INVALID", "annotations"),
        ({"evaluation_dimension": "humour"}, "CATEGORY_UNKNOWN", "evaluation_dimension"),
        ({"auditory_modality_path": "auditory/none.wav"}, "MEDIA_MISSING", "auditory_modality_path"),
        ({"auditory_modality_path": None}, "MEDIA_MISSING", ""),
        ({"visual_modality_path": "../secret.png"}, "MEDIA_PATH_FORBIDDEN", "visual_modality_path"),
        ({"visual_modality_path": "visual/heron.txt"}, "MEDIA_TYPE_UNSUPPORTED", "visual_modality_path"),
        ({"visual_modality_path": "visual/fake.png"}, "MEDIA_UNDECODABLE", "visual_modality_path"),
        ({"question": " "}, "VALUE_MISSING", "question"),
    ],
)  # fmt: skip
async def test_an_item_that_is_not_as_published_is_set_aside_with_its_column(
    client: AsyncClient, tmp_path: Path, more: Row, reason: str, column: str
) -> None:
    (tmp_path / "secret.png").write_bytes(PNG)
    folder = media(tmp_path / "EvalAnything-AMU")
    (folder / "visual" / "fake.png").write_bytes(b"not a picture at all")
    done = await run(client, write(folder, [amu(1), amu(2, **more)]))
    assert (done.records_imported, dict(done.quarantine_reasons)) == (1, {reason: 1})
    (found,) = await quarantine(client)
    assert (found.quarantine.source_row, found.quarantine.column) == (2, column), found.quarantine.message


async def test_another_number_of_references_is_taken_when_told(client: AsyncClient, tmp_path: Path) -> None:
    folder = write(media(tmp_path / "EvalAnything-AMU"), [amu(1, annotations=TEN[:3]), amu(2, annotations=[])])
    assert (await run(client, folder, reference_count=3)).records_imported == 1
    done = await run(client, folder, reference_count=0)
    assert (done.records_imported, dict(done.quarantine_reasons)) == (1, {"REFERENCES_COUNT": 1})


@pytest.mark.parametrize("name", ["test.json", "test.parquet"])
async def test_the_questions_of_a_prompt_are_one_record(client: AsyncClient, tmp_path: Path, name: str) -> None:
    rows = [question(n % 40, n, answer="ABCD"[n % 4]) for n in range(100)]  # not side by side, and more than a batch
    write(tmp_path / "EvalAnything-InstructionFollowing" / "audio_instruct", rows, name)
    done = await run(client, tmp_path)
    assert (done.rows_read, done.records_imported, dict(done.subtask_counts)) == (40, 40, {"t2a": 40})
    first = (await read(client))[0]
    assert kinds(first.prompt) == "text"
    assert [one.id for one in first.benchmark_item.questions] == ["0", "40", "80"]
    (one, *_) = first.benchmark_item.questions
    assert (one.question, list(one.choices), one.correct) == ("What falls?", ["rain", "snow", "hail", "leaves"], 1)


@pytest.mark.parametrize(
    ("more", "reason", "column"),
    [
        ({"choice": "rain or snow"}, "CHOICES_INVALID", "choice"),
        ({"answer": "E"}, "ANSWER_INVALID", "answer"),
        ({"question_id": 1}, "QUESTION_REPEATED", "question_id"),
        ({"prompt": "snow"}, "PROMPT_CONFLICTS", "prompt"),
        ({"question": None}, "VALUE_MISSING", "question"),
    ],
)
async def test_a_prompt_with_a_bad_question_is_set_aside_and_the_question_named(
    client: AsyncClient, tmp_path: Path, more: Row, reason: str, column: str
) -> None:
    rows = [question(1, 1), question(2, 3), question(1, 2) | more]
    write(tmp_path / "EvalAnything-InstructionFollowing" / "video_instruct", rows)
    done = await run(client, tmp_path)
    assert (done.records_imported, dict(done.quarantine_reasons)) == (1, {reason: 1})
    (found,) = await quarantine(client)
    assert (found.quarantine.source_row, found.quarantine.column) == (3, column), found.quarantine.message


async def test_instructions_for_text_and_images_are_a_row_each(client: AsyncClient, tmp_path: Path) -> None:
    for config in ("text", "image"):
        rows = [{"prompt_id": n, "prompt": f"{config} {n}"} for n in range(3)]
        write(tmp_path / "EvalAnything-InstructionFollowing" / f"{config}_instruct", rows, "test.parquet")
    done = await run(client, tmp_path)
    assert dict(done.subtask_counts) == {"t2t": 3, "t2i": 3}
    assert not (await read(client))[0].benchmark_item.questions


async def test_votes_for_combinations(client: AsyncClient, tmp_path: Path) -> None:
    rows = [
        shares(t=0.2, i=0.0, a=0.0, ti=0.4, ta=0.16, ia=0.0, tia=0.24),
        shares(t=0.5, ti=0.4) | {"instruction_uid": "b"},
        shares(t=12, ti=13) | {"instruction_uid": "c"},
        shares(t=0.5, it=0.5) | {"instruction_uid": "d"},
        shares() | {"instruction_uid": "e", "selection": None},
    ]
    done = await run(client, write(tmp_path / "EvalAnything-Selection_Synergy", rows, "train.parquet"))
    assert (done.records_imported, dict(done.quarantine_reasons)) == (1, {"SHARES_INVALID": 4})
    (found,) = await read(client)
    assert found.subtask == "t2tia"
    assert found.benchmark_item.selection_shares["tia"] == 0.24
    messages = [one.quarantine.message for one in await quarantine(client)]
    assert "test" not in messages[0] and "row 2, column selection: the shares of the votes add up to 0.9" in messages[0]


async def test_omnibench(client: AsyncClient, tmp_path: Path) -> None:
    folder = tmp_path / "OmniBench" / "dataset"
    row = {
        "index": 7, "task type": "Action and Activity", "audio type": "speech", "question": "What do they do?",
        "options": ["They sail.", "They row.", "They swim.", "They sink."], "answer": "They row.",
        "audio_path": "call.wav", "image_path": "heron.png", "audio content": "row!", "image content": "a boat",
    }  # fmt: skip
    for name, data in (("audio/call.wav", WAV), ("image/heron.png", PNG)):
        (folder / "mm_data" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "mm_data" / name).write_bytes(data)
    wrong = row | {"index": 8, "answer": "They fly."}
    write(folder, [], "batch-5_1142_20240817.jsonl")
    (folder / "batch-5_1142_20240817.jsonl").write_text("\n".join(map(json.dumps, [row, wrong])))
    done = await run(client, folder.parent)
    assert (dict(done.subtask_counts), dict(done.quarantine_reasons)) == ({"tia2t": 1}, {"ANSWER_INVALID": 1})
    assert sorted(one.column for one in done.unread_columns) == ["audio content", "image content"]
    (found,) = await read(client)
    assert kinds(found.prompt) == "image/png audio/wav text"
    assert found.benchmark_item.category == "Action and Activity"
    (asked,) = found.benchmark_item.questions
    assert (asked.choices[asked.correct - 1], asked.question) == ("They row.", "What do they do?")
    assert found.labels["audio_type"] == "speech"


async def test_vl_rewardbench(client: AsyncClient, tmp_path: Path) -> None:
    rows = [
        pair(),
        pair(id="vl-2", human_ranking=[0, 1]),
        pair(id="vl-3", human_ranking=[0, 0]),
        pair(id="vl-4", response=["alone"]),
    ]
    write(tmp_path / "VL-RewardBench" / "data", rows, "test-00000-of-00001.parquet")
    done = await run(client, tmp_path)
    assert (done.records_imported, dict(done.quarantine_reasons)) == (2, {"LABEL_INVALID": 1, "RESPONSE_MISSING": 1})
    found = await read(client)
    assert sorted(one.preference.preferred for one in found) == [1, 2]
    assert {(one.subtask, kinds(one.prompt)) for one in found} == {("ti2t", "image/png text")}
    sides = [(text_of(one.content), one.source) for one in found[0].responses]
    assert sides == [("a heron", "one"), ("a stork", "two")]
    assert found[0].labels["query_source"] == "wildvision"


async def test_omni_rewardbench_has_pairs_in_every_modality(client: AsyncClient, tmp_path: Path) -> None:
    root = tmp_path / "OmniRewardBench"
    both = {"criteria": "Which is calmer?", "criteria_preference": "response2", "model1": "m1", "model2": "m2"}
    media(root / "media_data")
    write(root / "text_audio_to_text", [both | {
        "id": "a", "prompt": "Whose call?", "audio": {"bytes": WAV, "path": "x.wav"}, "audio_path": "gone.wav",
        "response1": "a heron's", "response2": "an owl's",
    }], "test.parquet")  # fmt: skip
    write(root / "text_to_video", [both | {
        "id": "b", "prompt": "A heron.", "response1": "visual/heron.mp4", "response2": "visual/heron.mp4",
    }, both | {
        "id": "c", "prompt": "A tie.", "response1": "visual/heron.mp4", "response2": "visual/heron.mp4",
        "criteria_preference": "tie",
    }], "test.parquet")  # fmt: skip
    write(root / "text_image_to_image", [both | {
        "id": "d", "prompt": "Make it night.", "image": {"bytes": PNG, "path": "x.png"},
        "response1": {"bytes": PNG, "path": "y.png"}, "response2": {"bytes": PNG, "path": "z.png"},
        "response1_path": "y.png", "response2_path": "z.png",
    }], "test.parquet")  # fmt: skip
    done = await run(client, root)
    assert dict(done.subtask_counts) == {"ta2t": 1, "t2v": 1, "ti2i": 1}
    assert dict(done.quarantine_reasons) == {"LABEL_INVALID": 1}
    assert not done.unread_columns
    by_task = {one.subtask: one for one in await read(client)}
    assert kinds(by_task["ta2t"].prompt) == "audio/wav text"
    assert kinds(by_task["t2v"].responses[1].content) == "video/mp4"
    assert kinds(by_task["ti2i"].responses[0].content) == "image/png"
    assert by_task["t2v"].labels["criterion"] == "Which is calmer?"
    assert {one.preference.preferred for one in by_task.values()} == {2}


async def test_pairs_in_other_columns_are_read_by_their_declared_names(client: AsyncClient, tmp_path: Path) -> None:
    rows = [{"instruction": "Greet.", "good": "Hello!", "bad": "No."}]
    folder = write(tmp_path / "pairs", rows, "rows.json")
    renamed = {"instruction": "prompt", "good": "chosen", "bad": "rejected"}
    await run(client, folder, format="preference", renamed_columns=renamed)
    (found,) = await read(client)
    assert [text_of(one.content) for one in found.responses] == ["Hello!", "No."]
    assert (found.preference.preferred, found.subtask) == (1, "t2t")
    with pytest.raises(InvalidArgument, match="good is to be read as bad, which is there too") as refused:
        await run(client, folder, format="preference", renamed_columns={"good": "bad"})
    assert refused.value.reason == "COLUMN_TWICE"


async def test_importing_again_replaces_and_keeps_what_is_mended(client: AsyncClient, tmp_path: Path) -> None:
    folder = tmp_path / "EvalAnything-InstructionFollowing" / "audio_instruct"
    write(folder, [question(1, 1), question(2, 2, answer="Z"), question(3, 3)])
    await run(client, folder.parent)
    write(folder, [question(1, 1), question(2, 2, answer="B")])
    done = await run(client, folder.parent)
    assert (done.records_imported, done.records_removed, done.rows_quarantined) == (2, 1, 0)
    assert not await quarantine(client)
