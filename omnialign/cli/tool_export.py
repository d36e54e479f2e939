"""Exports of rows in the columns of other tools: JSON lines with media beside them, or Parquet with them inside."""

import json
from collections import Counter
from collections.abc import AsyncIterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omnialign.cli.align_anything import Unwritable
from omnialign.cli.records import atomic_folder
from omnialign.cli.tool_rows import FORMATS, MEDIA_COLUMNS, Row, lost, path_of, row_of
from omnialign.content import media_file_name, media_of
from omnialign.errors import FailedPrecondition
from omnialign.v1.content_pb2 import Media
from omnialign.v1.record_pb2 import Record

if TYPE_CHECKING:
    from omnialign.cli.output import Output
    from omnialign.client import AsyncClient

PARQUET = "datasets"
COLUMNS = (*FORMATS, PARQUET)
"""What rows can be written in."""
GROUP_BYTES = 32 << 20
"""How much a row group of Parquet may hold: what is in memory at once."""
FEATURES = {"images": "Image", "audios": "Audio", "videos": "Video"}
"""The features of `datasets` for the columns of media."""


@dataclass(frozen=True)
class ExportCounts:
    """How much was exported; for each reason how many records were left out, and how many came without something."""

    rows: int
    media: int
    left_out: Mapping[str, int]
    without: Mapping[str, int]


async def export(records: AsyncIterable[Record], folder: Path, *, client: "AsyncClient", columns: str) -> ExportCounts:
    """Writes records and their media into a new folder; `columns` is of `COLUMNS`. Raises FOLDER_NOT_EMPTY."""
    parquet, rows, media = columns == PARQUET, 0, dict[str, Media]()
    write = FORMATS["trl" if parquet else columns]
    left_out, without = Counter[str](), Counter[str]()
    with atomic_folder(folder) as partial:
        files = ParquetFiles(partial, client) if parquet else JsonFiles(partial)
        async for record in records:
            try:
                row = row_of(record, write)
            except Unwritable as error:
                left_out[str(error)] += 1
                continue
            without.update(lost(record))
            found = {path_of(one): one for one in media_of([record.prompt, *(r.content for r in record.responses)])}
            await files.add(row, record.split or "train", found)
            media |= {medium.sha256: medium for medium in found.values()}
            rows += 1
        await files.close()
        if media and not parquet:
            (partial / "media").mkdir()
            for medium in media.values():
                (partial / "media" / media_file_name(medium)).write_bytes(await client.get_media(medium.sha256))
    return ExportCounts(rows, len(media), left_out, without)


def report(done: ExportCounts, folder: Path, *, out: "Output") -> None:
    """Says what was exported, and what was not and why."""
    counts = {"left_out": dict(done.left_out), "without": dict(done.without)}
    out.record({"folder": str(folder), "rows": done.rows, "media": done.media, **counts})
    out.say(f"{folder}: {done.rows} rows, {done.media} media files")
    for reason, count in done.left_out.items():
        out.say(f"left out {count}: {reason}")
    for what, count in done.without.items():
        out.say(f"not written: {what} of {count} records, for which the columns have no place")


class JsonFiles:
    """A JSON Lines file for each split."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def add(self, row: Row, split: str, media: Mapping[str, Media]) -> None:
        """Writes a row."""
        with (self._folder / f"{_file_name(split)}.jsonl").open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(row, ensure_ascii=False) + "\n")

    async def close(self) -> None:
        """Nothing is left to write."""


class ParquetFiles:
    """A Parquet file for each split, with the features of `datasets` and the bytes of media inside."""

    def __init__(self, folder: Path, client: "AsyncClient") -> None:
        """Raises FailedPrecondition PYARROW_MISSING."""
        self._folder, self._client = folder, client
        self._pyarrow = _pyarrow()
        self._schema = schema(self._pyarrow)
        self._rows: dict[str, list[Row]] = {}
        self._bytes = Counter[str]()
        self._writers: dict[str, Any] = {}

    async def add(self, row: Row, split: str, media: Mapping[str, Media]) -> None:
        """Keeps a row, and writes a row group when enough are there."""
        for name in MEDIA_COLUMNS.values():
            if name in row:
                row[name] = [
                    {"bytes": await self._client.get_media(media[path].sha256), "path": path.rpartition("/")[2]}
                    for path in row[name]
                ]
        self._rows.setdefault(split, []).append(row)
        self._bytes[split] += sum(medium.size_bytes for medium in media.values()) + len(str(row.get("prompt", "")))
        if self._bytes[split] >= GROUP_BYTES:
            self._write(split)

    async def close(self) -> None:
        """Writes what is left."""
        for split in list(self._rows):
            self._write(split)
        for writer in self._writers.values():
            writer.close()

    def _write(self, split: str) -> None:
        rows = self._rows.pop(split)
        del self._bytes[split]
        if split not in self._writers:
            path = self._folder / f"{_file_name(split)}.parquet"
            self._writers[split] = self._pyarrow.parquet.ParquetWriter(path, self._schema)
        table = self._pyarrow.Table.from_pylist([_typed(row) for row in rows], schema=self._schema)
        self._writers[split].write_table(table)


def _pyarrow() -> Any:
    """The library, which is not among what the command line brings."""
    try:
        import pyarrow as pa
        import pyarrow.parquet
    except ImportError as error:
        message = "Parquet is written by pyarrow, which is not installed here; `pip install pyarrow` brings it."
        raise FailedPrecondition(message, reason="PYARROW_MISSING") from error
    return pa


def schema(pa: Any) -> Any:
    """The columns of TRL's conversational form, and of `datasets` the features that they are; `pa` is pyarrow."""
    part = pa.struct([("type", pa.string()), ("text", pa.string())])
    messages = pa.list_(pa.struct([("role", pa.string()), ("content", pa.list_(part))]))
    medium = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    texts, talks = ("id", "split", "labels"), ("prompt", "chosen", "rejected", "completion")
    fields = [(name, pa.string()) for name in texts] + [(name, messages) for name in talks]
    fields += [(name, pa.list_(medium)) for name in FEATURES]
    text: Row = {"dtype": "string", "_type": "Value"}
    talk: Row = _list({"role": text, "content": _list({"type": text, "text": text})})
    features: Row = dict.fromkeys(texts, text) | dict.fromkeys(talks, talk)
    features |= {name: _list({"_type": kind}) for name, kind in FEATURES.items()}
    return pa.schema(fields, metadata={"huggingface": json.dumps({"info": {"features": features}})})


def _list(feature: Row) -> Row:
    return {"feature": feature, "_type": "List"}


def _typed(row: Row) -> Row:
    """A row of TRL whose messages all have parts, and whose labels are JSON: a column of Parquet has one type."""
    said = {"prompt": "user"}
    typed = dict(row)
    for name in ("prompt", "chosen", "rejected", "completion"):
        if isinstance(row.get(name), str):
            typed[name] = [{"role": said.get(name, "assistant"), "content": [{"type": "text", "text": row[name]}]}]
    if "labels" in row:
        typed["labels"] = json.dumps(row["labels"], ensure_ascii=False)
    return typed


def _file_name(split: str) -> str:
    """The split as the name of a file, which an import reads it from as well."""
    return "".join(one if one.isalnum() or one in "-_" else "_" for one in split) or "train"
