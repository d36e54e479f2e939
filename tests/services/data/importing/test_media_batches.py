"""Children read a table together, and decode its media: each medium still stands for itself."""

import io
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from omnialign.client import AsyncClient
from omnialign.content import text_of
from omnialign.errors import InvalidArgument
from omnialign.media import write_image
from omnialign.v1 import content_pb2
from services.data.config import DataConfig
from services.data.importing import media_reader, pieces, reading_ahead, tables
from services.data.importing.identity import Digests
from services.data.importing.pieces import Piece
from services.data.importing.reading import Reading
from services.data.importing.small_pictures import groups, small_bytes
from services.data.importing.sources import find_files
from services.data.importing.tables import read_table
from services.data.importing.units import Share
from services.data.media_validation import MediaLimits, validate_bytes

RATINGS = {"response_1": "one", "response_2": "two", "overall_response": 1}
NAME = "projects/default/datasets/pictures"
IMAGE = content_pb2.MODALITY_IMAGE
LIMITS = MediaLimits.of(DataConfig(root=Path()))
DEADLY = b"ends its process"


def picture(seed: int, side: int = 16) -> bytes:
    return write_image(np.random.default_rng(seed).integers(0, 255, (side, side, 3), dtype=np.uint8))


def write(folder: Path, pictures: Sequence[bytes]) -> Path:
    """A table of rows with one picture each."""
    target = folder / "rows.parquet"
    rows = [{"question": f"What is {i}?", "image": {"bytes": data}} | RATINGS for i, data in enumerate(pictures)]
    pq.write_table(pa.Table.from_pylist(rows), target)
    return target


async def run(client: AsyncClient, source: Path) -> Any:
    async for progress in client.import_dataset("pictures", source.as_uri(), subtask="ti2t"):
        done = progress
    return done


async def test_only_what_does_not_decode_is_set_aside(client: AsyncClient, tmp_path: Path) -> None:
    good, broken = [picture(seed) for seed in range(20)], picture(99)[:200]
    done = await run(client, write(tmp_path, [*good, broken]))
    assert done.records_imported == 20
    assert list(done.quarantine_reasons) == ["MEDIA_TRUNCATED"]


def deadly(file: io.BytesIO, limits: MediaLimits, modality: int = 0) -> str:
    """What decodes as ever, but for a picture that takes its process down."""
    if DEADLY in file.getvalue():
        os._exit(9)
    return validate_bytes(file, limits, modality)


def deadly_ahead(data: bytes, limits: MediaLimits) -> str:
    """`deadly`, before the row is read."""
    return deadly(io.BytesIO(data), limits)


def read_deadly(*args: Any) -> Iterator[Piece]:
    """Reads pieces in a child whose decoder a hostile picture takes down."""
    media_reader.validate_bytes, media_reader.type_of_picture = deadly, deadly_ahead  # type: ignore[assignment]  # in a child of its own
    return (piece for piece in pieces.read_pieces(*args))


async def test_a_medium_that_ends_the_process_takes_no_other_along(
    client: AsyncClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading_ahead, "read_pieces", read_deadly)
    made = [picture(seed) for seed in range(300)]
    for index in (3, 4, 270):
        made[index] += DEADLY
    done = await run(client, write(tmp_path, made))
    assert (done.records_imported, dict(done.quarantine_reasons)) == (297, {"MEDIA_KILLED_DECODER": 3})
    rows = [record.quarantine.source_row async for record in client.stream_quarantine(NAME)]
    assert sorted(rows) == [4, 5, 271]


def test_media_that_are_decoded_together_share_one_limit_on_processor_time(monkeypatch: pytest.MonkeyPatch) -> None:
    limits, digests = [], Digests()
    monkeypatch.setattr(media_reader, "enforce_processor_time", limits.append)
    reader = media_reader.MediaReader(LIMITS, digests)
    reader.decode_ahead(picture(seed) for seed in range(5))
    assert reader.put(picture(1), IMAGE).mime_type == reader.put(picture(9), IMAGE).mime_type == "image/png"
    assert len(limits) == 1
    reader.take()
    reader.put(picture(10), IMAGE)  # the next piece begins with limits of its own
    assert len(limits) == 2


def test_what_is_decoded_ahead_is_not_decoded_again_and_is_checked_against_its_claim() -> None:
    reader = media_reader.MediaReader(LIMITS, Digests())
    reader.decode_ahead([good := picture(1), broken := picture(2)[:-30], b"no picture"])
    assert set(reader._known.values()) == {"image/png"}
    assert len(reader._known) == 1
    with pytest.raises(InvalidArgument, match="claims to be audio"):
        reader.put(good, content_pb2.MODALITY_AUDIO)
    with pytest.raises(InvalidArgument, match="cut off"):
        reader.put(broken, IMAGE)


def test_groups_of_rows_are_small_in_number_and_end_with_a_row_that_may_be_large() -> None:
    rows = [{"image": {"bytes": b"x"}}] * 100 + [{"audio": [0.0]}] * 3 + ["no row"] + [{"image": b"x" * 70_000}, {}]
    found = [len(group) for group in groups((index, (index, row)) for index, row in enumerate(rows))]
    assert found == [64, 37, 1, 1, 1, 1, 1]
    assert [list(small_bytes(row)) for row in (rows[0], *rows[-3:])] == [[b"x"], [], [], []]


def test_pieces_of_rows_with_long_texts_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "PIECE_SECONDS", 600)
    row = {"prompt": "long " * 200_000}
    (tmp_path / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for _ in range(20)))
    (source,) = find_files(tmp_path / "rows.jsonl", subtask="t2t").files
    found = [len(piece.rows) for piece in pieces.read_pieces(source, Reading(), LIMITS, Share(), 0, 0)]
    assert found == [9, 9, 2]


async def test_large_media_in_files_are_copied_by_the_service(client: AsyncClient, tmp_path: Path) -> None:
    large = picture(1, side=700)
    assert len(large) > media_reader.SENT_BYTES
    (tmp_path / "large.png").write_bytes(large)
    pq.write_table(pa.table({"question": ["What?"], "image": ["large.png"]}), tmp_path / "rows.parquet")
    assert (await run(client, tmp_path / "rows.parquet")).records_imported == 1
    (record,) = [one async for one in client.stream_records(NAME)]
    assert await client.get_media(record.prompt.parts[0].media.sha256) == large


@pytest.mark.parametrize("group", [90, 5000])
def test_the_shares_of_a_table_are_all_its_rows(tmp_path: Path, group: int) -> None:
    pq.write_table(pa.table({"n": range(6000)}), tmp_path / "rows.parquet", row_group_size=group)
    found = [
        (unit, first + index, number, row["n"])
        for share in range(3)
        for unit, first, rows in tables.read_table_units(tmp_path / "rows.parquet", Share(share, 3))
        for index, (number, row) in enumerate(rows)
    ]
    assert len({unit % 3 for unit, *_ in found}) == 3
    assert [row for _, *row in sorted(found)] == [[n, n + 1, n] for n in range(6000)]


@pytest.mark.parametrize("group", [34, 50, 100, 600])
def test_the_shares_of_a_table_are_about_as_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, group: int) -> None:
    monkeypatch.setattr(tables, "BATCH_ROWS", 7)
    monkeypatch.setattr(tables, "UNIT_ROWS", 28)
    pq.write_table(pa.table({"n": range(1200)}), tmp_path / "rows.parquet", row_group_size=group)
    sizes = [
        sum(len(list(rows)) for *_, rows in tables.read_table_units(tmp_path / "rows.parquet", Share(share, 2)))
        for share in range(2)
    ]
    assert sum(sizes) == 1200
    assert max(sizes) <= 1.4 * min(sizes)


async def test_rows_that_several_children_read_keep_their_order(
    client: AsyncClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    lines = [f'{{"prompt": "same", "answer": "{n}"}}\n' for n in range(2000)]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    async for done in client.import_dataset("pictures", tmp_path.as_uri(), subtask="t2t", ignored_columns=["answer"]):
        assert done.rows_total in (0, 2000)
    assert done.records_imported == 2000
    assert {text_of(record.prompt) async for record in client.stream_records(NAME, limit=9)} == {"same"}


def test_a_page_of_many_values_does_not_shrink_batches_to_single_rows(tmp_path: Path) -> None:
    noise = [np.random.default_rng(seed).bytes(300_000) for seed in range(40)]
    pq.write_table(pa.table({"image": noise}), tmp_path / "media.parquet")
    sizes = [len(list(batch.rows())) for batch in read_table(tmp_path / "media.parquet")]
    assert sum(sizes) == 40
    assert min(sizes[:-1]) >= 20
    assert max(sizes) * 12_000_000 <= tables.WORST_BATCH_BYTES
