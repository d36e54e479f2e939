"""Rows in the columns of TRL as Parquet, with the features of `datasets` and the bytes of media within."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omnialign.errors import FailedPrecondition
from omnialign.exporting.rows import MEDIA_COLUMNS, Row, path_of
from omnialign.v1.content_pb2 import Media

GROUP_BYTES = 32 << 20
"""How much the rows may hold that are in memory, which become a row group of each file."""
FEATURES = {"images": "Image", "audios": "Audio", "videos": "Video"}
"""The features of `datasets` for the columns of media."""


class ParquetFiles:
    """A Parquet file for each name."""

    def __init__(self, folder: Path) -> None:
        """Raises FailedPrecondition PYARROW_MISSING."""
        self._folder = folder
        self._pyarrow = _pyarrow()
        self._schema = schema(self._pyarrow)
        self._rows: dict[str, list[Row]] = {}
        self._bytes = 0
        self._writers: dict[str, Any] = {}

    def add(self, name: str, row: Row, media: list[Media], data: Mapping[str, bytes]) -> int:
        """Keeps a row, and writes row groups when enough are there; returns how many bytes the row has."""
        digests = {path_of(medium): medium.sha256 for medium in media}
        typed = _typed(row)
        size = len(json.dumps({name: one for name, one in typed.items() if name not in FEATURES}, ensure_ascii=False))
        for column in MEDIA_COLUMNS.values():
            if column in typed:
                typed[column] = [_medium(path, data.get(digests[path])) for path in typed[column]]
                size += sum(len(one["bytes"] or b"") for one in typed[column])
        self._rows.setdefault(name, []).append(typed)
        self._bytes += size
        if self._bytes >= GROUP_BYTES:
            self._write()
        return size

    def close(self) -> None:
        """Writes what is left."""
        self._write()
        for writer in self._writers.values():
            writer.close()

    def _write(self) -> None:
        for name, rows in self._rows.items():
            if name not in self._writers:
                path = self._folder / f"{name}.parquet"
                self._writers[name] = self._pyarrow.parquet.ParquetWriter(path, self._schema)
            self._writers[name].write_table(self._pyarrow.Table.from_pylist(rows, schema=self._schema))
        self._rows, self._bytes = {}, 0


def _medium(path: str, data: bytes | None) -> Row:
    return {"bytes": data, "path": path.rpartition("/")[2]}


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
    fields += [("label", pa.bool_()), *((name, pa.list_(medium)) for name in FEATURES)]
    text: Row = {"dtype": "string", "_type": "Value"}
    talk: Row = _list({"role": text, "content": _list({"type": text, "text": text})})
    features: Row = dict.fromkeys(texts, text) | dict.fromkeys(talks, talk)
    features["label"] = {"dtype": "bool", "_type": "Value"}
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
