"""Headers of weight files: whole ones are read, and hostile ones are refused at once."""

import json
import struct
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save

from omnialign.modeling.safetensors_header import HeaderInvalid, TensorInfo, read_file_header, read_header

WHOLE = save({"a": np.zeros((3, 5), np.float32), "b": np.zeros(7, np.float16), "none": np.zeros((0, 9), np.int8)})


def read(data: bytes) -> dict[str, TensorInfo]:
    return read_header(lambda start, length: data[start : start + length], size_bytes=len(data))


def file_with(header: Any, body: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def tensor(shape: Any, size: int, dtype: str = "U8") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [0, size]}


def test_a_whole_file_gives_its_tensors(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(WHOLE)
    found = read_file_header(tmp_path / "a")
    assert {name: (info.dtype, info.shape, info.num_elements) for name, info in found.items()} == {
        "a": ("F32", (3, 5), 15),
        "b": ("F16", (7,), 7),
        "none": ("I8", (0, 9), 0),
    }
    assert max(info.end for info in found.values()) == len(WHOLE)


@pytest.mark.parametrize(
    "data",
    [
        WHOLE[:-1],
        WHOLE + b"x",
        b"\xff" * 40,
        file_with({"a": tensor([1] * 100_000, 1)}, b"x"),
        file_with({"a": tensor([2**60] * 16, 1)}, b"x"),
        file_with({"a": tensor([2**62, 2**62, 0], 1)}, b"x"),
        file_with({"a": tensor([-1, -1], 1)}, b"x"),
        file_with({"a": tensor([True], 1)}, b"x"),
        file_with({"a": tensor([1.0], 1)}, b"x"),
        file_with({"a": tensor([2], 1)}, b"x"),
        file_with({"a": tensor([1], 1, "pickle")}, b"x"),
        file_with({"a": tensor([1], 1), "b": tensor([1], 1)}, b"x"),
        file_with(b'{"a": {"dtype": "U8", "shape": [%s], "data_offsets": [0, 1]}}' % (b"9" * 5000), b"x"),
        file_with(b"[" * 100_000),
        file_with(b'{"a": 1, "a": 2}'),
        file_with([]),
    ],
)
def test_a_header_that_does_not_describe_its_file_is_refused_at_once(data: bytes) -> None:
    started = time.process_time()
    with pytest.raises(HeaderInvalid):
        read(data)
    assert time.process_time() - started < 1


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.dictionaries(
        st.text(max_size=3),
        st.fixed_dictionaries(
            {"dtype": json_values | st.just("U8"), "shape": json_values, "data_offsets": json_values}
        ),
    ),
    st.binary(max_size=9),
)
def test_whatever_a_header_holds_it_is_read_or_refused(header: Any, body: bytes) -> None:
    try:
        found = read(file_with(header, body))
    except HeaderInvalid:
        return
    assert sum(info.end - info.start for info in found.values()) == len(body)


@given(st.integers(0, len(WHOLE) - 1), st.integers(0, 255))
def test_a_changed_byte_is_read_or_refused(place: int, value: int) -> None:
    try:
        read(WHOLE[:place] + bytes([value]) + WHOLE[place + 1 :])
    except HeaderInvalid as error:
        assert str(error)
