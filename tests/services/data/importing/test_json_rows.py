"""The incremental JSON reader reads what `json` reads, in any pieces, and says where a file is broken."""

import io
import json
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omnialign.errors import InvalidArgument
from services.data.importing.json_rows import JsonValues, read_json_lines, read_json_rows
from services.data.importing.refusal import MalformedRow

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


@given(st.lists(VALUES, max_size=8), st.integers(1, 40), st.sampled_from([None, 2]), st.booleans())
def test_a_list_is_read_whatever_the_pieces(values: list[object], piece: int, indent: int | None, plain: bool) -> None:
    text = " \n" + json.dumps(values, indent=indent, ensure_ascii=plain) + "\n"
    assert list(JsonValues(io.StringIO(text), read_characters=piece).values()) == values


@given(st.lists(st.dictionaries(st.text(max_size=5), VALUES, max_size=4), max_size=8), st.integers(1, 40))
def test_objects_one_after_the_other_are_read(values: list[object], piece: int) -> None:
    text = "\n".join(map(json.dumps, values))
    assert list(JsonValues(io.StringIO(text), read_characters=piece).values()) == values


@given(st.text(alphabet='[]{}",:1ae \n\\', max_size=40), st.integers(1, 10))
def test_broken_text_is_an_error_and_never_hangs(text: str, piece: int) -> None:
    try:
        found = list(JsonValues(io.StringIO(text), read_characters=piece).values())
    except ValueError:
        with pytest.raises(ValueError):
            json.loads(text)
    else:
        assert isinstance(found, list)


@pytest.mark.parametrize("text", ['[{"a": 1}', '[{"a": 1} {"b": 2}]', "[1,]", '[{"a": nope}]', "[1] 2", "[" * 100_000])
def test_a_broken_file_is_refused_with_its_name(tmp_path: Path, text: str) -> None:
    (tmp_path / "rows.json").write_text(text)
    with pytest.raises(InvalidArgument) as caught:
        list(read_json_rows(tmp_path / "rows.json"))
    assert (caught.value.reason, caught.value.metadata["file"]) == ("SOURCE_MALFORMED", "rows.json")


def test_bytes_that_are_not_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_bytes(b'[{"a": "\xff"}]')
    for read in (read_json_rows, read_json_lines):
        with pytest.raises(InvalidArgument) as caught:
            list(read(tmp_path / "rows.json"))
        assert caught.value.reason == "SOURCE_MALFORMED"


def test_a_broken_line_does_not_end_the_lines(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('\ufeff{"a": 1}\n\n{"b": \n{"c": 3}', encoding="utf-8")
    first, broken, last = read_json_lines(tmp_path / "rows.jsonl")
    assert (first, last) == ((1, {"a": 1}), (4, {"c": 3}))
    assert broken[0] == 3
    assert isinstance(broken[1], MalformedRow)


def test_a_number_of_any_length_is_read(tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text(f'[{{"a": {"9" * 5000}}}, {{"a": 1}}]')
    huge, small = read_json_rows(tmp_path / "rows.json")
    assert (huge, small) == ({"a": float("inf")}, {"a": 1})


def peak(path: Path) -> int:
    tracemalloc.start()
    for _ in read_json_rows(path):
        pass
    found = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return found


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    rows = [{"prompt": "x" * 1000, "number": number} for number in range(8000)]
    (tmp_path / "small.json").write_text(json.dumps(rows[:2000]))
    (tmp_path / "large.json").write_text(json.dumps(rows))
    assert peak(tmp_path / "large.json") < 1.3 * peak(tmp_path / "small.json")
