"""Imports of all eight subsets over gRPC, from real files in the subsets' own columns."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from omnialign.client import AsyncClient
from omnialign.content import text_of
from omnialign.errors import FailedPrecondition, InvalidArgument, PermissionDenied
from omnialign.media import write_audio, write_image, write_video
from omnialign.v1 import content_pb2, data_service_pb2, record_pb2
from services.data.importing.columns import MAX_COLUMNS

NAME = "projects/default/datasets/imported"
Row = dict[str, Any]


def png(seed: int) -> bytes:
    return write_image(np.random.default_rng(seed).integers(0, 255, (8, 8, 3), dtype=np.uint8))


def wav(seed: int) -> bytes:
    return write_audio(np.random.default_rng(seed).random(400, dtype=np.float32) - 0.5, 8000)


def mp4(seed: int) -> bytes:
    return write_video(np.random.default_rng(seed).integers(0, 255, (4, 16, 16, 3), dtype=np.uint8), 4)


MAKERS: dict[str, Callable[[int], bytes]] = {"png": png, "wav": wav, "mp4": mp4}
TEXT = {"p": "prompt_following", "o": "objective_rules", "c": "clarity", "i": "information_richness", "s": "safety"}
IMAGE = {"p": "prompt_following", "o": "objective_rules", "a": "aesthetics", "i": "information_richness", "s": "safety"}
AUDIO = {"p": "prompt_following", "o": "audio_quality", "a": "consistency", "i": "information_richness", "s": "safety"}
VIDEO = {**IMAGE, "t": "temporal_consistency", "cc": "content_coherence", "m": "motion_naturalness"}
BOTH = {"p": "prompt_following", "o": "objective_rules", "ca": "ca", "i": "information_richness", "s": "safety",
        "c": "consistency"}  # fmt: skip


@dataclass(frozen=True)
class Subset:
    """The columns of a subset; `{k}` is the side."""

    folder: str
    prompt: str
    side: str
    dimensions: Mapping[str, str]
    prompt_media: Mapping[str, str] = field(default_factory=dict)
    responses: Mapping[str, str] = field(default_factory=lambda: {"response_{k}": "text"})
    source: str = "res_{k}_from"
    critique: str = "text_critique_{k}"


BOTH_PARTS = {"response_{k}": "text", "output_image_url_{k}": "png"}
NAMED = {"source": "image_{k}_model", "critique": "text_{k}_feedback"}
SUBSETS = {
    "t2t": Subset("text-to-text", "question", "response", TEXT),
    "ti2t": Subset("text-image-to-text", "question", "response", TEXT, {"image": "png"}),
    "ta2t": Subset("text-audio-to-text", "prompt", "response", TEXT, {"audio_path": "wav"}),
    "tv2t": Subset("text-video-to-text", "prompt", "response", TEXT, {"video_path": "mp4"}, source="model_{k}"),
    "t2i": Subset("text-to-image", "prompt", "image", IMAGE, responses={"image_{k}": "png"}, **NAMED),
    "t2a": Subset("text-to-audio", "prompt", "audio", AUDIO, {}, {"response_{k}": "wav"}, critique="text_{k}_feedback"),
    "t2v": Subset("text-to-video", "prompt", "video", VIDEO, {}, {"video_{k}": "mp4"}, source="video_{k}_model"),
    "ti2ti": Subset("text-image-to-text-image", "question", "response", BOTH, {"image_url": "png"}, BOTH_PARTS),
}
PLACEHOLDERS = {"ti2t": "<image>", "ta2t": "<audio>", "tv2t": "<video>", "ti2ti": "<image>"}


def rows(subtask: str, put: Callable[[str, int], Any], count: int = 3) -> list[Row]:
    return [row(subtask, put, index) for index in range(count)]


def row(subtask: str, put: Callable[[str, int], Any], index: int = 0) -> Row:
    subset = SUBSETS[subtask]
    made: Row = {subset.prompt: f"{PLACEHOLDERS.get(subtask, '')}ask {index}", "labels": json.dumps({"n": str(index)})}
    made |= {column: put(kind, index) for column, kind in subset.prompt_media.items()}
    for k in (1, 2):
        for column, kind in subset.responses.items():
            made[column.format(k=k)] = f"answer {index}.{k}" if kind == "text" else put(kind, 100 * k + index)
        made[subset.source.format(k=k)] = f"model-{k}"
        made[subset.critique.format(k=k)] = f"##Critique: bad {k} ##Refinement: mend {k}"
    for letters, dimension in subset.dimensions.items():
        made[f"{letters}_{subset.side}"] = 2
        made |= {f"{dimension}_rate_{k}": k for k in (1, 2)}
        made |= {f"{letters}_rationale_{k}": f"{dimension} is {k}" for k in (1, 2)}
    return made | {f"overall_{subset.side}": 2, "overall_textfeedback": "##Reason: two is better ##Refinement: go on"}


def embedded(kind: str, seed: int) -> Row:
    return {"bytes": MAKERS[kind](seed), "path": f"{seed}.{kind}"}


def write_parquet(folder: Path, subtask: str, made: list[Row], name: str = "train") -> Path:
    target = folder / SUBSETS[subtask].folder
    target.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(made), target / f"{name}.parquet")
    return target


def write_json(folder: Path, subtask: str, count: int = 3, lines: bool = False) -> Path:
    target = folder / SUBSETS[subtask].folder
    (target / "media").mkdir(parents=True, exist_ok=True)

    def put(kind: str, seed: int) -> str:
        (target / "media" / f"{seed}.{kind}").write_bytes(MAKERS[kind](seed))
        return f"media/{seed}.{kind}" if seed % 2 else f"{seed}.{kind}"  # with the media folder's name, and without

    made = rows(subtask, put, count)
    text = "\n".join(map(json.dumps, made)) if lines else json.dumps(made, indent=1)
    (target / ("train.jsonl" if lines else "train.json")).write_text(text)
    return target


async def run(client: AsyncClient, source: Path, **options: Any) -> data_service_pb2.ImportDatasetResponse:
    found = [one async for one in client.import_dataset("imported", str(source), **options)]
    return found[-1]


async def read(client: AsyncClient) -> list[record_pb2.Record]:
    found = [record async for record in client.stream_records(NAME)]
    return sorted(found, key=lambda record: record.labels["n"])


async def quarantine(client: AsyncClient) -> dict[str, record_pb2.Record]:
    return {record.quarantine.reason: record async for record in client.stream_quarantine(NAME)}


def kinds(message: content_pb2.Content) -> list[str]:
    return [part.media.mime_type if part.WhichOneof("part") == "media" else "text" for part in message.parts]


MIME = {"png": "image/png", "wav": "audio/wav", "mp4": "video/mp4", "text": "text"}


@pytest.mark.parametrize("form", ["parquet", "json", "jsonl"])
@pytest.mark.parametrize("subtask", SUBSETS)
async def test_a_subset_becomes_records(client: AsyncClient, tmp_path: Path, subtask: str, form: str) -> None:
    if form == "parquet":
        write_parquet(tmp_path, subtask, rows(subtask, embedded))
    else:
        write_json(tmp_path, subtask, lines=form == "jsonl")
    done = await run(client, tmp_path)
    assert (done.rows_read, done.records_imported, done.rows_quarantined) == (3, 3, 0)
    assert dict(done.subtask_counts) == {subtask: 3}
    assert done.dataset_version.record_count == 3
    first = (await read(client))[0]
    subset = SUBSETS[subtask]
    assert (first.subtask, first.split, dict(first.labels)) == (subtask, "train", {"n": "0"})
    assert kinds(first.prompt) == [*(MIME[kind] for kind in subset.prompt_media.values()), "text"]
    assert text_of(first.prompt) == "ask 0"
    assert [response.source for response in first.responses] == ["model-1", "model-2"]
    for k, response in enumerate(first.responses, 1):
        assert kinds(response.content) == [MIME[kind] for kind in subset.responses.values()]
        scores = [(score.dimension, score.score, score.rationale) for score in response.feedback.scores]
        assert scores == [(dimension, k, f"{dimension} is {k}") for dimension in subset.dimensions.values()]
        assert (response.feedback.critique, response.feedback.refinement) == (f"bad {k}", f"mend {k}")
    assert (first.preference.preferred, first.preference.reason) == (2, "two is better\ngo on")
    assert dict(first.preference.dimensions) == dict.fromkeys(subset.dimensions.values(), 2)


async def test_media_of_an_import_can_be_read(client: AsyncClient, tmp_path: Path) -> None:
    write_parquet(tmp_path, "t2i", rows("t2i", embedded))
    done = await run(client, tmp_path)
    record = (await read(client))[1]
    assert await client.get_media(record.responses[0].content.parts[0].media.sha256) == png(101)
    assert done.media_bytes == sum(len(png(100 * k + index)) for k in (1, 2) for index in range(3))


async def test_sounds_as_samples_become_wav(client: AsyncClient, tmp_path: Path) -> None:
    def samples(kind: str, seed: int) -> Row:
        return {"array": [float(seed % 3) / 4] * 800, "sampling_rate": 16000, "path": None}

    write_parquet(tmp_path, "ta2t", rows("ta2t", samples))
    assert (await run(client, tmp_path)).records_imported == 3
    assert kinds((await read(client))[0].prompt) == ["audio/wav", "text"]


async def test_an_import_can_run_again(client: AsyncClient, tmp_path: Path) -> None:
    for subtask in ("t2t", "t2i"):
        write_parquet(tmp_path, subtask, rows(subtask, embedded))
    first = await run(client, tmp_path)
    before = await read(client)
    again = await run(client, tmp_path)
    assert again.dataset_version == first.dataset_version
    assert again.records_imported == 6
    assert await read(client) == before


async def test_rows_that_are_alike_are_all_kept(client: AsyncClient, tmp_path: Path) -> None:
    write_parquet(tmp_path, "t2t", [row("t2t", embedded)] * 4)
    for _ in range(2):
        assert (await run(client, tmp_path)).dataset_version.record_count == 4


async def test_prompts_alone_are_records_without_responses(client: AsyncClient, tmp_path: Path) -> None:
    bare = {"question": "ask", "labels": None}
    empty = {"question": "ask more", "response_1": None, "response_2": None, "overall_response": None, "labels": None}
    write_parquet(tmp_path, "t2t", [bare | {"labels": '{"n": "0"}'}, empty], name="prompts")
    assert (await run(client, tmp_path)).records_imported == 2
    found = await read(client)
    assert [(len(record.responses), record.HasField("preference"), record.split) for record in found] == [
        (0, False, "prompts"),
        (0, False, "prompts"),
    ]


async def test_a_split_column_and_a_map_of_labels_are_read(client: AsyncClient, tmp_path: Path) -> None:
    made = [row("t2t", embedded) | {"split": "test", "labels": {"n": "7"}}]
    write_parquet(tmp_path, "t2t", made)
    await run(client, tmp_path)
    (found,) = await read(client)
    assert (found.split, dict(found.labels)) == ("test", {"n": "7"})


async def test_a_placeholder_is_only_stripped_at_the_beginning_of_a_prompt_with_media(
    client: AsyncClient, tmp_path: Path
) -> None:
    write_parquet(tmp_path, "t2t", [row("t2t", embedded) | {"question": "<video> is a tag"}])
    write_parquet(tmp_path, "tv2t", [row("tv2t", embedded) | {"prompt": "<video>\nwhat is <video>?"}])
    await run(client, tmp_path)
    assert sorted(text_of(record.prompt) for record in await read(client)) == ["<video> is a tag", "what is <video>?"]


BROKEN: dict[str, Row] = {
    "LABEL_INVALID": {"overall_image": 3},
    "PROMPT_MISSING": {"prompt": "  "},
    "SCORE_INVALID": {"safety_rate_2": 4},
    "MEDIA_MISSING": {"image_2": {"bytes": None, "path": "none.png"}},
    "MEDIA_UNDECODABLE": {"image_1": {"bytes": b"nonsense", "path": "x"}},
    "MEDIA_TYPE_MISMATCH": {"image_1": {"bytes": wav(1), "path": "x"}},
    "MEDIA_TRUNCATED": {"image_1": {"bytes": png(5)[:-30], "path": "x"}},
    "MEDIA_EMPTY": {"image_1": {"bytes": b"", "path": "x"}},
    "RESPONSE_MISSING": {"image_1": None},
    "LABELS_INVALID": {"labels": "["},
}


async def test_broken_rows_are_set_aside_with_their_reasons(client: AsyncClient, tmp_path: Path) -> None:
    broken = [row("t2i", embedded, index) | wrong for index, wrong in enumerate(BROKEN.values(), 10)]
    write_parquet(tmp_path, "t2i", rows("t2i", embedded) + broken)
    done = await run(client, tmp_path, score_range=(0, 3), winner_labels=(1, 2))
    assert (done.records_imported, done.rows_quarantined) == (3, len(BROKEN))
    assert dict(done.quarantine_reasons) == dict.fromkeys(BROKEN, 1)
    found = await quarantine(client)
    assert set(found) == set(BROKEN)
    assert text_of(found["SCORE_INVALID"].prompt) == "ask 12"
    assert all(record.quarantine.stage == "import" and record.quarantine.message for record in found.values())


async def test_rows_that_are_no_objects_or_no_text_are_set_aside(client: AsyncClient, tmp_path: Path) -> None:
    good = json.dumps(row("t2t", embedded))
    lines = [good, '"text"', "[1]", '{"question": ', '{"question": "\\ud800", "response_1": null}', '{"question": 5}']
    (tmp_path / "text-to-text.jsonl").write_text("\n".join(lines))
    done = await run(client, tmp_path)
    assert dict(done.quarantine_reasons) == {"ROW_MALFORMED": 4, "PROMPT_MISSING": 1}


async def test_a_row_of_too_many_columns_is_set_aside(client: AsyncClient, tmp_path: Path) -> None:
    wide = row("t2t", embedded, 1) | {f"column {number}": 1 for number in range(MAX_COLUMNS)}
    (tmp_path / "text-to-text.jsonl").write_text("\n".join(map(json.dumps, (row("t2t", embedded), wide))))
    done = await run(client, tmp_path)
    assert (done.records_imported, dict(done.quarantine_reasons)) == (1, {"ROW_TOO_WIDE": 1})
    found = (await quarantine(client))["ROW_TOO_WIDE"].quarantine.message
    assert found == f"text-to-text.jsonl, row 2: the row has {len(wide)} columns, and up to {MAX_COLUMNS} are taken."


async def test_a_source_whose_address_is_too_long_for_lineage_is_refused_before_anything_is_stored(
    client: AsyncClient, tmp_path: Path
) -> None:
    part = "é" * 120  # six characters each in a URI
    write_parquet(tmp_path / part / part, "t2i", rows("t2i", embedded))
    with pytest.raises(InvalidArgument) as caught:
        await run(client, tmp_path / part / part)
    assert (caught.value.reason, caught.value.metadata["limit"]) == ("URI_TOO_LONG", "1024")
    assert [found async for found in client.list_datasets()] == []
    assert not list((tmp_path / "state" / "media").rglob("sha256/*"))


async def test_an_import_without_a_valid_row_fails_with_an_example_and_leaves_no_dataset(
    client: AsyncClient, tmp_path: Path
) -> None:
    write_parquet(tmp_path, "t2i", [row("t2i", embedded) | BROKEN["LABEL_INVALID"]])
    with pytest.raises(FailedPrecondition) as caught:
        await run(client, tmp_path, winner_labels=(1, 2))
    assert (caught.value.reason, caught.value.metadata["LABEL_INVALID"]) == ("NO_VALID_ROWS", "1")
    message = "text-to-image/train.parquet, row 1, column overall_image: the overall label is 3, and 1 or 2 is taken."
    assert caught.value.violations == (("LABEL_INVALID", message),)
    assert [found async for found in client.list_datasets()] == []


@pytest.mark.parametrize(
    "path", ["../secret.png", "/etc/passwd", "media/link.png", "linked/secret.png", "http://x/y.png"]
)
async def test_paths_cannot_leave_the_folder_of_the_data(client: AsyncClient, tmp_path: Path, path: str) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret.png").write_bytes(png(1))
    target = write_json(tmp_path / "inside", "ti2t")
    (target / "media" / "link.png").symlink_to(tmp_path / "outside" / "secret.png")
    (target / "linked").symlink_to(tmp_path / "outside")
    (tmp_path / "inside" / "secret.png").write_bytes(png(2))
    made = json.loads((target / "train.json").read_text())
    made[0]["image"] = path
    (target / "train.json").write_text(json.dumps(made))
    done = await run(client, target)
    assert dict(done.quarantine_reasons) == {"MEDIA_PATH_FORBIDDEN": 1}


async def test_a_row_that_was_mended_leaves_the_quarantine(client: AsyncClient, tmp_path: Path) -> None:
    target = write_json(tmp_path, "tv2t")
    (target / "media" / "1.mp4").rename(target / "away.bin")
    assert dict((await run(client, tmp_path)).quarantine_reasons) == {"MEDIA_MISSING": 1}
    (target / "away.bin").rename(target / "media" / "1.mp4")
    done = await run(client, tmp_path)
    assert (done.records_imported, done.dataset_version.name) == (3, f"{NAME}/versions/2")
    assert await quarantine(client) == {}


async def test_an_import_leaves_lineage_from_its_source(client: AsyncClient, tmp_path: Path) -> None:
    write_parquet(tmp_path, "t2t", rows("t2t", embedded))
    done = await run(client, tmp_path)
    edges = (await client.get_lineage(done.dataset_version.name)).edges
    assert (tmp_path.as_uri(), done.dataset_version.name) in {(edge.source, edge.target) for edge in edges}


async def test_only_the_allowed_folders_are_read(serving: Any, tmp_path: Path) -> None:
    (tmp_path / "allowed").mkdir()
    write_parquet(tmp_path / "other", "t2t", rows("t2t", embedded))
    async with serving(tmp_path / "state", import_roots=(tmp_path / "allowed",)) as client:
        with pytest.raises(PermissionDenied) as caught:
            await run(client, tmp_path / "other")
    assert caught.value.reason == "PATH_FORBIDDEN"


@pytest.mark.parametrize(("name", "data"), [("t2i.parquet", b"PAR1 no"), ("t2i.json", b'[{"prompt": ')])
async def test_a_file_that_is_broken_is_named(client: AsyncClient, tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InvalidArgument) as caught:
        await run(client, tmp_path)
    assert (caught.value.reason, caught.value.metadata["file"]) == ("SOURCE_MALFORMED", name)


IMPORT = """
import asyncio, sys
from pathlib import Path
from omnialign.client import AsyncClient
from services.data.__main__ import wire
from services.data.config import DataConfig
from services.runtime.config import ServerConfig
from services.runtime.server import Server

async def main():
    server = Server(ServerConfig(), name="data")
    async with wire(server, DataConfig(root=Path(sys.argv[1]))):
        await server.start()
        async with AsyncClient(server.address, project="default") as client:
            async for progress in client.import_dataset("imported", sys.argv[2]):
                count = progress.records_imported
        await server.stop(0)
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    print(count, int(status["VmHWM"].split()[0]) // 1024)

asyncio.run(main())
"""


def peak_mib(folder: Path, count: int) -> int:
    """Peak memory of a process that imports so many rows of about 50 KB, in MiB."""
    made = []
    for index in range(count):
        sound = write_audio(np.random.default_rng(index).random(25_000, dtype=np.float32) - 0.5, 8000)
        made.append({"prompt": f"ask {index}", "audio_path": {"bytes": sound, "path": "x.wav"}})
    target = folder / "text-audio-to-text"
    target.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(made), target / "train.parquet", row_group_size=100)
    command = [sys.executable, "-c", IMPORT, str(folder / "state"), str(target)]
    # glibc keeps an arena for each thread; one is enough here and makes the figure repeatable
    environment = os.environ | {"MALLOC_ARENA_MAX": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=100, env=environment)
    imported, mebibytes = map(int, done.stdout.split())
    assert imported == count
    return mebibytes


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    small, large = peak_mib(tmp_path / "small", 400), peak_mib(tmp_path / "large", 2400)
    assert large - small < 50  # the files differ by 100 MB; allocators differ by some 30 between runs
