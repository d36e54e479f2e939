"""Reading a data file in batches of rows. Memory holds one batch, whatever the size of the file."""

import itertools
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from services.data.importing.json_rows import malformed, read_json_lines, read_json_rows
from services.data.importing.sources import SourceFile

BATCH_ROWS = 32
BATCH_BYTES = 8 * 1024 * 1024
READ_BUFFER_BYTES = 1024 * 1024
Row = Mapping[str, Any]


class Batch(Protocol):
    """Some rows of a file, in order."""

    def rows(self) -> Iterator[Any]:
        """The rows: mappings of column to value, or what a broken row was read as."""
        ...


class JsonBatch:
    """Rows that are parsed already."""

    def __init__(self, rows: list[Any]) -> None:
        self._rows = rows

    def rows(self) -> Iterator[Any]:
        """The rows."""
        return iter(self._rows)


class ArrowBatch:
    """Rows in Arrow's memory; one at a time becomes Python's, since a sound as a list of numbers is large there."""

    def __init__(self, batch: pa.RecordBatch) -> None:
        self._batch = batch

    def rows(self) -> Iterator[Any]:
        """The rows."""
        for index in range(self._batch.num_rows):
            yield self._batch.slice(index, 1).to_pylist(maps_as_pydicts="lossy")[0]


def read_batches(source: SourceFile) -> Iterator[Batch]:
    """The rows of a file in batches. Raises SOURCE_MALFORMED."""
    suffix = source.path.suffix.lower()
    if suffix == ".parquet":
        yield from _parquet(source)
        return
    rows = read_json_lines(source.path) if suffix == ".jsonl" else read_json_rows(source.path)
    while batch := list(itertools.islice(rows, BATCH_ROWS)):
        yield JsonBatch(batch)


def _parquet(source: SourceFile) -> Iterator[Batch]:
    try:
        with pq.ParquetFile(source.path, buffer_size=READ_BUFFER_BYTES, pre_buffer=False) as file:
            for batch in file.iter_batches(batch_size=_batch_rows(file.metadata), use_threads=False):
                yield ArrowBatch(batch)
    except (pa.ArrowException, OSError) as error:
        raise malformed(source.path, str(error)) from error


def _batch_rows(metadata: Any) -> int:
    """As many rows as make up `BATCH_BYTES`, going by the file's own sums."""
    size_bytes = sum(metadata.row_group(index).total_byte_size for index in range(metadata.num_row_groups))
    row_bytes: int = max(1, size_bytes // max(1, metadata.num_rows))
    return max(1, min(BATCH_ROWS, BATCH_BYTES // row_bytes))
