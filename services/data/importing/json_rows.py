"""Reading rows from JSON and JSON Lines.

No file is ever held whole, and the size of a row is bounded too. JSON may be a list of objects, objects one after
another, or one object per line.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from services.data.importing.refusal import MalformedRow, malformed

READ_CHARACTERS = 256 * 1024
MAX_ROW_CHARACTERS = 64 * 1024 * 1024
# From "1." or "1e-" at the end of the text read so far, the decoder takes "1" and leaves up to this many characters,
# though the number may go on: such a value is only accepted when more text follows.
UNREAD_CHARACTERS = 2
BLANK = " \t\r\n"
MAX_DIGITS = 1000


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
            except ValueError:
                self._decoder = json.JSONDecoder(parse_int=_integer)
                continue
            self._more(wanted)
            wanted *= 2

    def _more(self, characters: int) -> None:
        self._base += self._at
        chunk = self._file.read(characters)
        self._ended = not chunk
        self._text, self._at = self._text[self._at :] + chunk, 0


def read_json_lines(path: Path, is_wanted: Callable[[int], bool] = lambda _: True) -> Iterator[tuple[int, Any]]:
    """Number and value of each line that is not blank, a `MalformedRow` if it is not JSON.

    The value is None of lines that are not wanted, by how many came before. Raises SOURCE_MALFORMED if not UTF-8.
    """
    count = 0
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number in range(1, 2**62):
                line = file.readline(MAX_ROW_CHARACTERS)
                if not line:
                    return
                if line.strip():
                    yield number, _line(line) if is_wanted(count) else None
                    count += 1
    except UnicodeDecodeError as error:
        raise malformed(path, str(error)) from error


def _line(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        return MalformedRow(f"the line is not JSON: {error or 'it is nested too deeply'}")


def _integer(digits: str) -> int | float:
    """An integer of any length: Python refuses to read those of thousands of digits."""
    return int(digits) if len(digits) < MAX_DIGITS else float(digits)
