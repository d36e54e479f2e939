"""Refusals of rows and of files: what was found, what is taken, and where: file, row, column, media file."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omnialign.errors import InvalidArgument, valid_text
from omnialign.v1 import record_pb2

MAX_MESSAGE_CHARACTERS = 800
MAX_ROW_CHARACTERS = 64 * 1024


@dataclass(frozen=True)
class MalformedRow:
    """A row that cannot be read from its file."""

    detail: str


def killed_reader(cause: str) -> InvalidArgument:
    """The error for a file whose reading ended its process."""
    message = f"The file cannot be read safely: its process {cause}; write it again, in parts or with less compression."
    return InvalidArgument(message, reason="SOURCE_KILLED_READER", metadata={"cause": cause})


def malformed(path: Path, detail: str) -> InvalidArgument:
    """The error for a file that cannot be read any further."""
    message = f"{path.name} cannot be read: {detail}."
    return InvalidArgument(message, reason="SOURCE_MALFORMED", metadata={"file": path.name, "detail": detail})


def refusal(reason: str, message: str, *, column: str = "") -> InvalidArgument:
    """The error for a row that cannot be imported. The message goes on after the place, so it has no capital."""
    return InvalidArgument(message, reason=reason, metadata={"column": column} if column else {})


@contextmanager
def in_column(name: str, found: Any) -> Iterator[None]:
    """Adds the column, and the media file that `found` names, to the refusals raised inside."""
    try:
        yield
    except InvalidArgument as error:
        error.metadata.setdefault("column", name)
        path = found.get("path") if isinstance(found, Mapping) else found
        if isinstance(path, str) and path and not path.startswith("data:"):
            error.metadata.setdefault("path", path[:300])
        raise


@contextmanager
def in_row(number: Any) -> Iterator[None]:
    """Adds the number of the row to the refusals raised inside, where several rows are one record."""
    try:
        yield
    except InvalidArgument as error:
        if isinstance(number, int):
            error.metadata.setdefault("row", str(number))
        raise


def quarantine(error: InvalidArgument, *, file: str, number: int, row: Any) -> record_pb2.Quarantine:
    """What the quarantine says of a row: the message begins with the place."""
    number = int(error.metadata.get("row", number))
    column, path = (valid_text(error.metadata.get(key, "")) for key in ("column", "path"))
    place = (
        f"{valid_text(file)}, row {number}" + (f", column {column}" if column else "") + (f" ({path})" if path else "")
    )
    message = f"{place}: {valid_text(error.message)}"[:MAX_MESSAGE_CHARACTERS]
    return record_pb2.Quarantine(
        stage="import",
        reason=error.reason,
        message=message if message.endswith(".") else message + ".",
        source_file=valid_text(file),
        source_row=number,
        column=column,
        media_path=path,
        row_json=row_json(row),
    )


def described(found: Any) -> str:
    """What a value is, in words."""
    if isinstance(found, list) and found and all(isinstance(one, Mapping) and "role" in one for one in found):
        return "a conversation"
    kinds = {
        list: "a list",
        bool: "true or false",
        int: "a number",
        float: "a number",
        bytes: "bytes",
        str: "text",
        type(None): "nothing",
    }
    return "an object" if isinstance(found, Mapping) else kinds.get(type(found), type(found).__name__)


def row_json(row: Any) -> str:
    """A row as a JSON object, without the bytes of media; "" if it is none or too large."""
    if not isinstance(row, Mapping):
        return ""
    try:
        text = json.dumps({str(name): _plain(found) for name, found in row.items()}, default=str)
    except (ValueError, TypeError, RecursionError, OverflowError):
        return ""
    return text if len(text) <= MAX_ROW_CHARACTERS else ""


def _plain(found: Any) -> Any:
    """A value without bytes of media: they are in the source, and a mended row names a file instead."""
    if isinstance(found, bytes):
        return None
    if isinstance(found, Mapping):
        return {str(key): _plain(one) for key, one in found.items() if key not in ("bytes", "array")}
    return [_plain(one) for one in found] if isinstance(found, list) and len(found) < 1000 else found
