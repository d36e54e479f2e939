"""Reading rows from Parquet and Arrow files, within bounds that are checked before anything is expanded.

A Parquet file says in its footer and page headers how large its columns become. One that grows more than a hundredfold
to more than 64 MiB is refused: neither media nor text that people wrote does that. A file that lies about its sizes
only harms the process that reads it.
"""

import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from omnialign.errors import InvalidArgument
from services.data.importing.columns import MAX_COLUMNS
from services.data.importing.refusal import MalformedRow, malformed
from services.data.importing.units import Share, Unit

BATCH_ROWS = 128
BATCH_BYTES = 8 * 1024 * 1024
CONVERTED_BYTES = 1024 * 1024
"""What is converted to Python's objects at once: audio as a list of Python numbers is large."""
UNIT_ROWS, UNIT_BYTES = 2048, 32 * 1024 * 1024
"""About the size of a unit. A row group is cut into equal ones, so that each reader has as much to do as the others."""
WORST_BATCH_BYTES = 256 * 1024 * 1024
"""What a batch may grow to if each of its rows refers to the longest value that a page can hold."""
READ_BUFFER_BYTES = 1024 * 1024
MAX_LEAVES = 10 * MAX_COLUMNS
MAX_EXPANSION = 100
FREE_BYTES = 64 * 1024 * 1024
VALUE_BYTES = 8
PAGE_HEADER_BYTES = 20
"""The first three fields of a page header take no more."""
MAX_SHAPE_DEPTH = 8
A_TEXT = "a text"
_THERE = object()


@dataclass(frozen=True)
class TableBatch:
    """Some rows of a table, converted to Python a few at a time."""

    batch: pa.RecordBatch
    first_number: int
    unit: int
    """Which unit of the table it is in."""

    def rows(self) -> Iterator[tuple[int, Any]]:
        """Number and columns of each row; a row with a value that Python cannot hold is a `MalformedRow`."""
        count = max(1, min(BATCH_ROWS, CONVERTED_BYTES // max(1, self.batch.nbytes // max(1, self.batch.num_rows))))
        for start in range(0, self.batch.num_rows, count):
            yield from enumerate(_to_rows(self.batch.slice(start, count)), self.first_number + start)


def _to_rows(batch: pa.RecordBatch) -> list[Any]:
    names = batch.schema.names
    try:
        return [dict(zip(names, row, strict=True)) for row in zip(*map(_values, batch.columns), strict=True)]
    except (ValueError, OverflowError, TypeError, pa.ArrowException) as error:  # not UTF-8, year 10000
        if batch.num_rows == 1:
            return [MalformedRow(f"a value cannot be read: {error}")]
        return [row for index in range(batch.num_rows) for row in _to_rows(batch.slice(index, 1))]


def _values(column: pa.Array) -> list[Any]:
    """The values of a column, of objects field by field: Arrow takes several times as long for one after the other."""
    kind = column.type
    names = [field.name for field in kind] if pa.types.is_struct(kind) else []
    if not names or len(set(names)) < len(names):
        return list(column.to_pylist(maps_as_pydicts="lossy"))
    rows = zip(*map(_values, column.flatten()), strict=True)
    return [
        dict(zip(names, row, strict=True)) if is_valid else None
        for row, is_valid in zip(rows, column.is_valid().to_pylist(), strict=True)
    ]


def read_table(path: Path, share: Share = Share()) -> Iterator[TableBatch]:  # noqa: B008 - it is frozen
    """The rows of a share of a file in batches. Raises SOURCE_MALFORMED, SOURCE_TOO_WIDE, SOURCE_EXPANDS."""
    grown_bytes, packed_bytes = 0, path.stat().st_size
    for found in _batches(path, share):
        # What the rows grow to is measured, too: each may refer to the same long value of a dictionary.
        batch = _without_dictionaries(found.batch)
        grown_bytes += batch.nbytes
        _check_expansion(path, "the rows", grown_bytes, packed_bytes)
        if share.has(found.unit):
            yield TableBatch(batch, found.first_number, found.unit)


def read_table_units(path: Path, share: Share) -> Iterator[Unit]:
    """The rows of a share of a file in units. Raises what `read_table` raises."""
    for unit, batches in itertools.groupby(read_table(path, share), key=lambda batch: batch.unit):
        first = next(batches)
        rows = (row for batch in itertools.chain((first,), batches) for row in batch.rows())
        yield unit, first.first_number - 1, rows


def read_outlines(path: Path) -> Iterator[tuple[dict[str, Any], int]]:
    """Rows with their numbers and texts, of other values what `_shape` gives. Raises what `read_table` raises.

    Equal rows of a batch come once, with their number. All texts that are no numbers are `A_TEXT`, so that most are.
    """
    grown_bytes, packed_bytes, shapes = 0, path.stat().st_size, dict[str, Any]()
    for found in _batches(path, Share(), narrow=True):
        batch = _without_dictionaries(found.batch)
        grown_bytes += batch.nbytes
        _check_expansion(path, "the rows", grown_bytes, packed_bytes)
        names = batch.schema.names
        if not shapes:  # of all fields: the batch may lack some
            whole = batch.schema if path.suffix.lower() == ".arrow" else pq.read_schema(path)
            shapes = {field.name: _shape(field.type) for field in whole}
        for row, count in Counter(zip(*map(_outline, batch), strict=True)).items():
            named = zip(names, row, strict=True)
            yield {name: shapes[name] if value is _THERE else value for name, value in named}, count


def _batches(path: Path, share: Share, *, narrow: bool = False) -> Iterator[TableBatch]:
    """The record batches of a file, without row groups of which nothing is in the share.

    If `narrow`, columns have as few of their fields as tell what is null.
    """
    try:
        if path.suffix.lower() == ".arrow":
            yield from _numbered(_arrow(path))
            return
        with pq.ParquetFile(path, buffer_size=READ_BUFFER_BYTES, pre_buffer=False) as file:
            rows = check_parquet(file.metadata, path)
            check_columns(path, len(file.schema_arrow.names))
            yield from _parquet(file, rows, share, _smallest_fields(file) if narrow else None)
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        raise malformed(path, str(error)) from error


def _parquet(file: Any, batch_rows: int, share: Share, columns: list[str] | None) -> Iterator[TableBatch]:
    number, unit = 1, 0
    for index in range(file.metadata.num_row_groups):
        group = file.metadata.row_group(index)
        unit_rows = _unit_rows(group, batch_rows)
        units = -(-group.num_rows // unit_rows)
        if any(map(share.has, range(unit, unit + units))):
            found = file.iter_batches(batch_size=batch_rows, row_groups=[index], columns=columns, use_threads=False)
            yield from _numbered(found, number=number, unit=unit, rows=unit_rows)
        number, unit = number + group.num_rows, unit + units


def _unit_rows(group: Any, batch_rows: int) -> int:
    """How many rows of a row group a unit has: whole batches."""
    num_rows = int(group.num_rows)
    row_bytes = int(group.total_byte_size) // max(1, num_rows)
    most = max(1, min(UNIT_ROWS, UNIT_BYTES // max(1, row_bytes)))
    rows = -(-num_rows // max(1, round(num_rows / most)))
    return max(1, -(-rows // batch_rows)) * batch_rows


def _numbered(
    batches: Iterator[pa.RecordBatch], *, number: int = 1, unit: int = 0, rows: int = UNIT_ROWS
) -> Iterator[TableBatch]:
    """Batches with their places, in units of at least so many rows, but for the last one."""
    held = 0
    for batch in batches:
        if held >= rows:
            unit, held = unit + 1, 0
        yield TableBatch(batch, number, unit)
        number, held = number + batch.num_rows, held + batch.num_rows


def _without_dictionaries(batch: pa.RecordBatch) -> pa.RecordBatch:
    columns = [column.dictionary_decode() if pa.types.is_dictionary(column.type) else column for column in batch]
    return pa.RecordBatch.from_arrays(columns, names=batch.schema.names)


def _arrow(path: Path) -> Iterator[pa.RecordBatch]:
    """The record batches of a file in Arrow's stream format, which `datasets` writes, or in its file format."""
    with pa.memory_map(str(path)) as file:
        is_file = file.read(6) == b"ARROW1"
        file.seek(0)
        reader = pa.ipc.open_file(file) if is_file else pa.ipc.open_stream(file)
        check_columns(path, len(reader.schema.names))
        batches = (reader.get_batch(i) for i in range(reader.num_record_batches)) if is_file else reader
        for batch in batches:
            batch.validate(full=True)  # its offsets are as the file has them, and may point anywhere
            rows = _batch_rows(batch.nbytes // max(1, batch.num_rows))
            for start in range(0, batch.num_rows, rows):
                yield batch.slice(start, rows)


def check_columns(path: Path, found: int) -> None:
    """Raises SOURCE_TOO_WIDE."""
    if found > MAX_COLUMNS:
        message = f"{path.name} has {found} columns, and up to {MAX_COLUMNS} are taken."
        raise InvalidArgument(message, reason="SOURCE_TOO_WIDE", metadata={"file": path.name, "columns": str(found)})


def check_parquet(metadata: Any, path: Path) -> int:
    """How many rows to read at once. Raises SOURCE_TOO_WIDE, SOURCE_EXPANDS."""
    if metadata.num_columns > MAX_LEAVES:
        check_columns(path, metadata.num_columns)
    size_bytes, values, largest_page = 0, 0, 0
    with path.open("rb") as file:
        for group in map(metadata.row_group, range(metadata.num_row_groups)):
            size_bytes += group.total_byte_size
            for chunk in map(group.column, range(metadata.num_columns)):
                page, packed_page = _first_page_bytes(file, chunk)
                _check_expansion(path, chunk.path_in_schema, chunk.total_uncompressed_size, chunk.total_compressed_size)
                _check_expansion(path, chunk.path_in_schema, page, packed_page)
                _check_expansion(
                    path, chunk.path_in_schema, chunk.num_values * VALUE_BYTES, chunk.total_compressed_size
                )
                largest_page = max(largest_page, page)
                values += chunk.num_values
        _check_expansion(path, "the rows", metadata.num_rows, path.stat().st_size)
    row_bytes = max(size_bytes, values * VALUE_BYTES) // max(1, metadata.num_rows)
    # Each row may refer to one long value of a dictionary.
    return min(_batch_rows(row_bytes), max(1, WORST_BATCH_BYTES // max(1, largest_page)))


def _check_expansion(path: Path, name: str, size: int, packed_bytes: int) -> None:
    if size > FREE_BYTES and size > MAX_EXPANSION * packed_bytes:
        message = (
            f"{path.name} would grow from {packed_bytes:,} bytes to {size:,} in {name}, and {MAX_EXPANSION} times "
            "as much is taken: write the file again with less compression."
        )
        raise InvalidArgument(message, reason="SOURCE_EXPANDS", metadata={"file": path.name, "column": name})


def _first_page_bytes(file: IO[bytes], chunk: Any) -> tuple[int, int]:
    """The expanded and the packed size of a column's first page, which is its dictionary if it has one."""
    offset = chunk.dictionary_page_offset or chunk.data_page_offset
    file.seek(max(0, offset))
    head, at, found = file.read(PAGE_HEADER_BYTES), 0, list[int]()
    # Thrift's compact protocol: type, expanded size, packed size, each a byte 0x15 and a zigzag number of 7-bit groups.
    for _ in range(3):
        if head[at : at + 1] != b"\x15":
            return 0, 0  # not a page header: Arrow will say so
        number, shift, at = 0, 0, at + 1
        while at < len(head):
            number |= (head[at] & 0x7F) << shift
            shift, at = shift + 7, at + 1
            if head[at - 1] < 0x80:
                break
        found.append((number >> 1) ^ -(number & 1))
    return max(0, found[1]), max(0, found[2])


def _batch_rows(row_bytes: int) -> int:
    return max(1, min(BATCH_ROWS, BATCH_BYTES // max(1, row_bytes)))


def _smallest_fields(file: Any) -> list[str]:
    """For each column, its field that takes the fewest bytes: it tells as well as any which rows have a value."""
    metadata, sizes = file.metadata, dict[str, int]()
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        for chunk in map(group.column, range(metadata.num_columns)):
            sizes[chunk.path_in_schema] = sizes.get(chunk.path_in_schema, 0) + chunk.total_compressed_size
    found = list[str]()
    for name in file.schema_arrow.names:
        fields = [path for path in sizes if path == name or path.startswith(f"{name}.")]
        found += [min(fields, key=lambda path: sizes[path])] if fields else []
    return found


def _shape(kind: Any, depth: int = 0) -> Any:
    """An object with the fields that values of a type have, a list with one element, or True for anything else."""
    if depth == MAX_SHAPE_DEPTH:
        return True
    if pa.types.is_struct(kind):
        return {field.name: _shape(field.type, depth + 1) for field in kind}
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return [_shape(kind.value_type, depth + 1)]
    return True


def _outline(column: Any) -> list[Any]:
    """Numbers and what may be numbers as they are; of other values, `_THERE` for each that is there, and None."""
    kind = column.type
    is_number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    try:
        if is_text:
            return [A_TEXT if text and text[0].isalpha() else text for text in column.to_pylist()]
        if is_number or pa.types.is_boolean(kind):
            return list(column.to_pylist())
    except ValueError:  # not UTF-8: each row says so for itself when it is imported
        pass
    return [_THERE if is_valid else None for is_valid in column.is_valid().to_pylist()]
