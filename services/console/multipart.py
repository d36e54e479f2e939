"""A form with files, read as it arrives: its fields first, then each file. Nothing of a file is kept here."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header
from starlette.requests import Request

from omnialign.errors import DeadlineExceeded, InvalidArgument, OmnialignError

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

MAX_FIELDS, MAX_FIELD_BYTES = 50, 16 * 1024
IDLE_SECONDS = 60.0
"""How long a browser may send nothing."""


@dataclass(frozen=True)
class Part:
    """The beginning of a field, or of a file with a name."""

    name: str
    filename: str | None


class IncomingForm:
    """One form. Raises InvalidArgument FORM_INVALID for what is none, DeadlineExceeded UPLOAD_IDLE, and
    `ClientDisconnect` when the browser goes away."""

    def __init__(self, request: Request) -> None:
        self._parts = _parts(request)
        self._file: Part | None = None

    async def fields(self) -> dict[str, str]:
        """The fields that come before the first file."""
        values, name = dict[str, bytearray](), ""
        async for item in self._parts:
            if isinstance(item, Part):
                if item.filename is not None:
                    self._file = item
                    break
                name = item.name
                values[name] = bytearray()
            else:
                values[name] += item
            if len(values) > MAX_FIELDS or (name and len(values[name]) > MAX_FIELD_BYTES):
                raise _invalid("it has too many fields, or a field that is too long")
        return {name: value.decode("utf-8", "replace") for name, value in values.items()}

    async def files(self) -> AsyncIterator[Part | bytes]:
        """Each file, as its part and then its bytes. A field among them is refused: it would come too late."""
        if self._file is None:
            return
        yield self._file
        async for item in self._parts:
            if isinstance(item, Part) and item.filename is None:
                raise _invalid("a field comes after a file")
            yield item

    async def drain(self) -> None:
        """Reads what is left and drops it: a browser looks at the answer when it has sent everything."""
        with contextlib.suppress(OmnialignError):
            async for _ in self._parts:
                pass


async def _parts(request: Request) -> AsyncIterator[Part | bytes]:
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    boundary = options.get(b"boundary", b"")
    if kind != b"multipart/form-data" or not boundary:
        raise _invalid("it is not of the kind that holds files")
    reader = _Reader()
    stream = aiter(request.stream())
    try:
        parser = MultipartParser(boundary, reader.callbacks())
        while True:
            async with asyncio.timeout(IDLE_SECONDS):
                if (chunk := await anext(stream, None)) is None:
                    break
            parser.write(chunk)
            for item in reader.taken():
                yield item
        parser.finalize()
    except FormParserError:
        raise _invalid("it cannot be read") from None
    except TimeoutError:
        raise DeadlineExceeded(
            f"Nothing arrived for {IDLE_SECONDS:g} seconds; send the files again.", reason="UPLOAD_IDLE"
        ) from None
    if not reader.is_complete:
        raise _invalid("it breaks off")


class _Reader:
    """What the parser found since it was asked last."""

    def __init__(self) -> None:
        self.is_complete = False
        self._found: list[Part | bytes] = []
        self._header, self._value, self._disposition = b"", b"", b""

    def callbacks(self) -> "MultipartCallbacks":
        """What the parser calls."""
        return {
            "on_header_field": self._on_header_field,
            "on_header_value": self._on_header_value,
            "on_header_end": self._on_header_end,
            "on_headers_finished": self._on_headers_finished,
            "on_part_data": lambda data, start, end: self._found.append(data[start:end]),
            "on_end": self._on_end,
        }

    def taken(self) -> list[Part | bytes]:
        """What was found, which is then forgotten."""
        found, self._found = self._found, []
        return found

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = self._value
        self._header = self._value = b""

    def _on_headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        self._disposition, filename = b"", options.get(b"filename")
        try:
            name = options.get(b"name", b"").decode()
            self._found.append(Part(name, None if filename is None else filename.decode()))
        except UnicodeDecodeError:
            raise _invalid("a name in it is not UTF-8; rename the file") from None

    def _on_end(self) -> None:
        self.is_complete = True


def _invalid(problem: str) -> InvalidArgument:
    return InvalidArgument(f"The form cannot be taken: {problem}.", reason="FORM_INVALID")
