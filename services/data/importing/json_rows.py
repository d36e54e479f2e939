"""Reading rows from JSON incrementally: a list of objects, objects one after the other, or one a line.

The file is never held whole: memory is bounded by the largest row, which is bounded too.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from omnialign.errors import InvalidArgument

READ_CHARACTERS = 256 * 1024
MAX_ROW_CHARACTERS = 64 * 1024 * 1024
# A number may go on after a "." or an "e-" that was not taken for part of it, since nothing came after that yet.
UNREAD_CHARACTERS = 2
BLANK = " \t\r\n"


def malformed(path: Path, detail: str) -> InvalidArgument:
    """The error for a file that cannot be read on."""
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
        """The values one by one. Raises ValueError where the text is not JSON, with the position."""
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
        """Decodes one value; where the text ends too early, reads twice as much each time, so the work stays linear."""
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
    """One value a line; a line that is not JSON gives a `MalformedLine`. Raises SOURCE_MALFORMED for no UTF-8."""
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
