"""Tables are bounded before they are expanded, and read row by row."""

import json
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from omnialign.errors import InvalidArgument
from services.data.importing import tables
from services.data.importing.columns import MAX_COLUMNS
from services.data.importing.coverage import nearest
from services.data.importing.formats.ratings import unread_of_helpsteer3
from services.data.importing.readers import survey
from services.data.importing.reading import Reading
from services.data.importing.refusal import MalformedRow
from services.data.importing.scales import Scales
from services.data.importing.sources import SourceFile
from services.data.importing.tables import A_TEXT, read_outlines, read_table

MIB = 1024 * 1024


def refused(path: Path) -> str:
    with pytest.raises(InvalidArgument) as caught:
        next(iter(read_table(path)))
    assert caught.value.metadata["file"] == path.name
    return caught.value.reason


def test_a_table_of_too_many_columns_is_refused(tmp_path: Path) -> None:
    wide = pa.table({f"c{number}": [1] for number in range(MAX_COLUMNS + 1)})
    pq.write_table(wide, tmp_path / "wide.parquet")
    assert refused(tmp_path / "wide.parquet") == "SOURCE_TOO_WIDE"


def test_a_dictionary_that_grows_out_of_all_proportion_is_refused(tmp_path: Path) -> None:
    bomb = pa.table({"prompt": ["a" * (80 * MIB)]})
    pq.write_table(bomb, tmp_path / "bomb.parquet", compression="zstd", write_statistics=False)
    assert (tmp_path / "bomb.parquet").stat().st_size < 100_000
    assert refused(tmp_path / "bomb.parquet") == "SOURCE_EXPANDS"


def test_rows_that_all_refer_to_one_long_value_are_refused_once_they_have_grown(tmp_path: Path) -> None:
    column = pa.DictionaryArray.from_arrays(pa.array([0] * 60, pa.int32()), pa.array(["a" * (2 * MIB)]))
    pq.write_table(pa.table({"prompt": column}), tmp_path / "shared.parquet", compression="zstd")
    with pytest.raises(InvalidArgument, match="in the rows") as caught:
        list(read_table(tmp_path / "shared.parquet"))
    assert caught.value.reason == "SOURCE_EXPANDS"


def test_a_list_that_grows_out_of_all_proportion_is_refused(tmp_path: Path) -> None:
    silence = pa.array([np.zeros(9 * MIB, np.int8)], pa.list_(pa.int8()))
    pq.write_table(pa.table({"array": silence}), tmp_path / "list.parquet", compression="zstd")
    assert refused(tmp_path / "list.parquet") == "SOURCE_EXPANDS"


def test_media_that_do_not_compress_are_not_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "FREE_BYTES", 1024)
    noise = [np.random.default_rng(seed).bytes(200_000) for seed in range(12)]
    pq.write_table(pa.table({"image": noise}), tmp_path / "media.parquet")
    rows = [row for batch in read_table(tmp_path / "media.parquet") for row in batch.rows()]
    assert [(number, row["image"]) for number, row in rows] == list(enumerate(noise, 1))


@pytest.mark.parametrize("form", ["stream", "file"])
def test_arrow_files_of_both_forms_are_read(tmp_path: Path, form: str) -> None:
    table = pa.table({"prompt": [f"ask {number}" for number in range(100)]})
    opened = pa.ipc.new_stream if form == "stream" else pa.ipc.new_file
    with opened(str(tmp_path / "data.arrow"), table.schema) as writer:
        writer.write_table(table)
    rows = [row for batch in read_table(tmp_path / "data.arrow") for row in batch.rows()]
    assert rows == [(number + 1, {"prompt": f"ask {number}"}) for number in range(100)]


def test_a_value_that_python_cannot_hold_is_the_failure_of_its_row(tmp_path: Path) -> None:
    days = pa.array([0, 2**30, 1], pa.int32()).cast(pa.date32())
    pq.write_table(pa.table({"day": days}), tmp_path / "days.parquet")
    (batch,) = read_table(tmp_path / "days.parquet")
    first, broken, last = (row for _, row in batch.rows())
    assert (first, last) == ({"day": date(1970, 1, 1)}, {"day": date(1970, 1, 2)})
    assert isinstance(broken, MalformedRow)


def test_the_outlines_of_rows_leave_out_bytes_and_texts_and_count_equal_rows(tmp_path: Path) -> None:
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    images = pa.array([{"bytes": b"x" * MIB, "path": None}, None, None, {"bytes": b"y", "path": "y.png"}], kind)
    scores = ["4", None, " 2.5", "4"]
    table = pa.table({"prompt": ["a", "", "c d", "b"], "image": images, "score": scores})
    pq.write_table(table, tmp_path / "rows.parquet")
    assert list(read_outlines(tmp_path / "rows.parquet")) == [
        ({"prompt": A_TEXT, "image": {"bytes": True, "path": True}, "score": "4"}, 2),
        ({"prompt": "", "image": None, "score": None}, 1),
        ({"prompt": A_TEXT, "image": None, "score": " 2.5"}, 1),
    ]


def test_objects_in_a_table_are_read_as_arrow_reads_them_one_by_one(tmp_path: Path) -> None:
    inner = pa.struct({"kind": pa.string(), "size": pa.int64()})
    outer = pa.struct({"bytes": pa.binary(), "inner": inner, "tags": pa.list_(inner), "empty": pa.struct([])})
    one = {"bytes": b"x", "inner": {"kind": "a", "size": 1}, "tags": [{"kind": "b", "size": None}, None], "empty": {}}
    rows = [one, None, {"bytes": None, "inner": None, "tags": None, "empty": None}, one | {"tags": []}]
    table = pa.table({"image": pa.array(rows, outer), "n": [1, 2, 3, 4]})
    with pa.OSFile(str(tmp_path / "rows.arrow"), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    found = [row for batch in read_table(tmp_path / "rows.arrow") for _, row in batch.rows()]
    assert found == table.to_pylist() == [{"image": row, "n": number} for number, row in enumerate(rows, 1)]


def test_a_survey_of_a_table_lists_what_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "text-to-text.parquet"
    side = {"response_1": ["a", "b"], "response_2": ["c", "d"], "overall_response": [1, 2]}
    pq.write_table(pa.table({"prompt": ["p", "q"], **side, "clarity_rte_1": [1, None], "empty": ["", None]}), path)
    found = survey(SourceFile(path, tmp_path, "t2t", "train"), Reading())
    assert (found.rows, dict(found.unread)) == (2, {"clarity_rte_1": 1})


@pytest.mark.parametrize("kind", ["parquet", "arrow", "jsonl"])
def test_a_survey_lists_the_fields_of_completions_that_are_not_read(tmp_path: Path, kind: str) -> None:
    rating = {"Rating": "4", "Rationale": "so", "Type": ["1"]}
    one = {"response": "a", "model": "m", "critique": "c", "principle": "honesty", "annotations": {"honesty": rating}}
    rows = [{"instruction": "Name a fruit.", "completions": [one, one | {"overall_score": 7.5}]}] * 2
    table, path = pa.Table.from_pylist(rows), tmp_path / f"rows.{kind}"
    if kind == "parquet":
        pq.write_table(table, path)
    elif kind == "arrow":
        with pa.ipc.new_stream(path, table.schema) as stream:
            stream.write_table(table)
    else:
        path.write_text("\n".join(map(json.dumps, rows)))
    reading = Reading(Scales(score_range=(1, 5)))
    found = survey(SourceFile(path, tmp_path, "", "train"), reading)
    names = ("completions.annotations.Type", "completions.overall_score", "completions.principle")
    assert dict(found.unread) == dict.fromkeys(names, 2)
    ignored = Reading(reading.scales, ignored_columns=frozenset({"completions.principle"}))
    assert set(survey(SourceFile(path, tmp_path, "", "train"), ignored).unread) == set(names[:2])


def test_what_each_person_said_is_listed_where_it_is_not_read() -> None:
    said = {"score": -1, "reasoning": "so", "feedback1": "good", "feedback2": None, "annotator": ""}
    row = {"context": "a", "individual_preference": [said, 7, said | {"seconds": 0}]}
    assert set(unread_of_helpsteer3(row)) == {"individual_preference.score", "individual_preference.seconds"}
    assert list(unread_of_helpsteer3({"overall_preference": -1, "individual_preference": [said]})) == []


def test_only_what_may_be_a_slip_of_the_pen_is_similar() -> None:
    assert nearest("", "promt", form="trl") == "prompt"
    assert nearest("t2t", "response1") == "response_1"
    others = ("prompt_id", "messages", "score_rejected", "completion.model")
    assert [nearest("", name, form="trl") for name in others] == [""] * 4
