"""The header of a safetensors file: the name, type, shape and place of each tensor, read by hand and within bounds.

A file begins with the length of its header in 8 bytes and the header as JSON; then come the tensors without gaps. The
header is untrusted: a shape of 100,000 dimensions, or one whose product has a million digits, would keep whoever
multiplies it busy for minutes. So a shape is believed only as far as the file has bytes for it.
"""

import json
import struct
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

MAX_HEADER_BYTES = 16 << 20
"""Room for 100,000 tensors; a JSON text of this length is parsed in a quarter of a second."""
MAX_DIMENSIONS = 16
BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "U16": 16, "I16": 16, "F16": 16, "BF16": 16, "U32": 32, "I32": 32, "F32": 32, "U64": 64, "I64": 64, "F64": 64,
    "C64": 64, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip
"""The number of bits of an element, by type."""

Read = Callable[[int, int], bytes]
"""Reads from an offset a number of bytes; fewer at the end of the file."""


class HeaderInvalid(ValueError):
    """The file is not valid safetensors; the message is the end of a sentence that begins with its name."""


class TensorInfo(NamedTuple):
    """A tensor of a file: its bytes are those from `start` to `end`."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def num_elements(self) -> int:
        """The number of elements."""
        return (self.end - self.start) * 8 // BITS[self.dtype]


def read_header(read: Read, *, size_bytes: int) -> dict[str, TensorInfo]:
    """The tensors of a file of `size_bytes`, by name. Raises HeaderInvalid."""
    if size_bytes < 8:
        raise HeaderInvalid("is too short for a header")
    try:
        (length,) = struct.unpack("<Q", read(0, 8))
        if length > min(MAX_HEADER_BYTES, size_bytes - 8):
            raise HeaderInvalid(f"claims a header of {length} bytes, and {MAX_HEADER_BYTES} are taken at most")
        header = json.loads(read(8, length), object_pairs_hook=_unique)
        entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
        tensors = {name: _tensor(name, entry, 8 + length) for name, entry in entries.items()}
    except HeaderInvalid:
        raise
    except (struct.error, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise HeaderInvalid(f"has a header that cannot be read ({type(error).__name__}: {str(error)[:200]})") from error
    _check_places(tensors.values(), start=8 + length, end=size_bytes)
    return tensors


def read_file_header(path: Path) -> dict[str, TensorInfo]:
    """The tensors of a file, by name. Raises HeaderInvalid and OSError."""
    with path.open("rb") as file:

        def read(start: int, length: int) -> bytes:
            file.seek(start)
            return file.read(length)

        return read_header(read, size_bytes=path.stat().st_size)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise HeaderInvalid("repeats a name in its header")
    return found


def _tensor(name: str, entry: dict[str, Any], offset: int) -> TensorInfo:
    dtype, shape, (start, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
    if dtype not in BITS:
        raise HeaderInvalid(f"has a tensor {name[:200]!r} of the unknown type {str(dtype)[:40]!r}")
    if len(shape) > MAX_DIMENSIONS:
        raise HeaderInvalid(f"has a tensor {name[:200]!r} of {len(shape)} dimensions; {MAX_DIMENSIONS} is the most")
    if not all(type(size) is int and size >= 0 for size in (*shape, start, end)):
        raise HeaderInvalid(f"has a tensor {name[:200]!r} whose sizes are not all whole numbers")
    num_bits = 8 * (end - start)
    bits = BITS[dtype]
    for size in shape:  # stops at the first product beyond the file, before products become long to compute
        bits *= size
        if bits > num_bits and 0 not in shape:
            break
    if bits != num_bits:
        raise HeaderInvalid(f"has a tensor {name[:200]!r} whose shape and type do not give its {end - start} bytes")
    return TensorInfo(dtype, tuple(shape), offset + start, offset + end)


def _check_places(tensors: Iterable[TensorInfo], *, start: int, end: int) -> None:
    """Raises HeaderInvalid unless the tensors fill the file from `start` to `end` without gaps."""
    for tensor in sorted(tensors, key=lambda tensor: (tensor.start, tensor.end)):
        if tensor.start != start:
            raise HeaderInvalid("has tensors that overlap or leave gaps")
        start = tensor.end
    if start != end:
        raise HeaderInvalid(f"has {end} bytes, but its tensors end at {start}: it is not complete")
