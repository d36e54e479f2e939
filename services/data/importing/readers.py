"""Reading the rows of a data file, in batches: Parquet, JSON and JSON Lines.

No file is ever held whole: memory holds one batch, and the size of a row is bounded too. JSON may be a list of objects,
objects one after another, or one object per line.
"""

import itertools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from omnialign.errors import InvalidArgument
from services.data.importing.sources import SourceFile

READ_CHARACTERS = 256 * 1024
MAX_ROW_CHARACTERS = 64 * 1024 * 1024
# From "1." or "1e-" at the end of the text read so far, the decoder takes "1" and leaves up to this many characters,
# though the number may go on: such a value is only accepted when more text follows.
UNREAD_CHARACTERS = 2
BLANK = " \t\r\n"


def malformed(path: Path, detail: str) -> InvalidArgument:
    """The error for a file that cannot be parsed any further."""
    message = f"{path.name} cannot be read: {detail}."
    return InvalidArgument(message, reason="SOURCE_MALFORMED", metadata={"file": path.name, "detail": detail})


def read_json_rows(path: Path) -> Iterator[Any]:
    """The values of a JSON file's outermost list, or of its sequence of values. Raises SOURCE_MALFORMED."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            yield from JsonValues(file).values()
    except (ValueError, RecursionError) as error:
        raise malformed(path, str(error) or "it is nested too deeply") from error


class JsonValues:
    """The values in a text stream, read in pieces of `read_characters`."""

    def __init__(self, file: IO[str], *, read_characters: int = READ_CHARACTERS) -> None:
        self._file, self._read_characters = file, read_characters
        self._decoder = json.JSONDecoder()
        self._text, self._at, self._ended, self._base = "", 0, False, 0

    def values(self) -> Iterator[Any]:
        """The values one by one. Raises ValueError, with the position, if the text is not JSON."""
        if self._peek() != "[":
            while self._peek():
                yield self._value()
            return
        self._at += 1
        separator = self._peek()
        if separator == "]":
            self._at += 1
        while separator != "]":
            yield self._value()
            separator = self._peek()
            if separator not in ("]", ","):
                raise ValueError(f"expected a comma or the end of the list at character {self._base + self._at}")
            self._at += 1
        if self._peek():
            raise ValueError(f"text after the end of the list at character {self._base + self._at}")

    def _peek(self) -> str:
        """The next character that is not blank, or "" at the end."""
        while True:
            while self._at < len(self._text) and self._text[self._at] in BLANK:
                self._at += 1
            if self._at < len(self._text):
                return self._text[self._at]
            if self._ended:
                return ""
            self._more(self._read_characters)

    def _value(self) -> Any:
        """Decodes one value; if the text ends too early, reads twice as much each time, so the work stays linear."""
        self._peek()
        wanted = self._read_characters
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._at)
                if self._ended or self._text[end - 1] in '}]"' or len(self._text) - end > UNREAD_CHARACTERS:
                    self._at = end
                    return value
            except json.JSONDecodeError as error:
                if self._ended or len(self._text) - self._at > MAX_ROW_CHARACTERS:
                    raise ValueError(f"{error.msg} at character {self._base + error.pos}") from None
            self._more(wanted)
            wanted *= 2

    def _more(self, characters: int) -> None:
        self._base += self._at
        chunk = self._file.read(characters)
        self._ended = not chunk
        self._text, self._at = self._text[self._at :] + chunk, 0


def read_json_lines(path: Path) -> Iterator[Any]:
    """One value per line; a line that is not JSON is a `MalformedLine`. Raises SOURCE_MALFORMED if not UTF-8."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number in range(1, 2**62):
                line = file.readline(MAX_ROW_CHARACTERS)
                if not line:
                    return
                if line.strip():
                    yield _line(line, number)
    except UnicodeDecodeError as error:
        raise malformed(path, str(error)) from error


class MalformedLine:
    """A line that is not JSON."""

    def __init__(self, number: int, detail: str) -> None:
        self.number, self.detail = number, detail


def _line(line: str, number: int) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        return MalformedLine(number, str(error) or "nested too deeply")


BATCH_ROWS = 32
BATCH_BYTES = 8 * 1024 * 1024
READ_BUFFER_BYTES = 1024 * 1024
Row = Mapping[str, Any]


class Batch(Protocol):
    """Some rows of a file, in order."""

    def rows(self) -> Iterator[Any]:
        """The rows: mappings of column to value, or whatever a broken row was parsed as."""
        ...


class JsonBatch:
    """Rows that are already parsed."""

    def __init__(self, rows: list[Any]) -> None:
        self._rows = rows

    def rows(self) -> Iterator[Any]:
        """The rows."""
        return iter(self._rows)


class ArrowBatch:
    """Rows in Arrow's memory, converted to Python one at a time: audio as a list of Python numbers is large."""

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
    """How many rows make up `BATCH_BYTES`, by the average row size in the file's metadata."""
    size_bytes = sum(metadata.row_group(index).total_byte_size for index in range(metadata.num_row_groups))
    row_bytes: int = max(1, size_bytes // max(1, metadata.num_rows))
    return max(1, min(BATCH_ROWS, BATCH_BYTES // row_bytes))
