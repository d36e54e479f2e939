"""What commands print: tables and sentences for people, one JSON object per line for machines.

Names, prompts and messages come from other people, and a terminal obeys the control characters in them. So everything
is printed here, with those characters escaped.
"""

import contextlib
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from google.protobuf.message import Message
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.segment import Segment


# C0 but for the line feed, DEL and C1 (whose 0x9b begins a sequence as ESC [ does), the line and paragraph separators,
# and what reverses the direction of text, so that it reads as something else. Joiners, as in emoji, are harmless.
_CONTROLS = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def escape_controls(text: str) -> str:
    """`text` with each control character as `\\uXXXX`, which JSON reads back; line feeds stay."""
    return _CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def clock(seconds: float) -> str:
    """Seconds as m:ss, or h:mm:ss from one hour on."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


@dataclass(frozen=True)
class Output:
    """Prints for people or, with `as_json`, for machines."""

    as_json: bool = False

    @cached_property
    def console(self) -> "Console":
        """The terminal, or plain unwrapped text when piped."""
        return _escaping_console()(highlight=False, soft_wrap=not sys.stdout.isatty())

    @property
    def is_live(self) -> bool:
        """Whether the output is a terminal that can be redrawn."""
        return not self.as_json and self.console.is_terminal

    @contextlib.contextmanager
    def status(self, text: str) -> Iterator[Callable[[str], None]]:
        """A line that shows on a terminal that something is under way; the function that it gives changes the text."""
        if not self.is_live:
            yield lambda text: None
            return
        with self.console.status(text) as line:
            yield line.update

    def record(self, value: "Mapping[str, Any] | Message") -> None:
        """Prints one line of JSON; nothing without `as_json`."""
        if self.as_json:
            self.write(json.dumps(to_json_dict(value), ensure_ascii=False) + "\n")

    def say(self, sentence: str) -> None:
        """Prints a line for people; nothing with `as_json`."""
        if not self.as_json:
            self.write(f"{sentence}\n")

    def complain(self, sentence: str) -> None:
        """Prints a line on stderr, for people and for machines."""
        sys.stderr.write(escape_controls(sentence) + "\n")
        sys.stderr.flush()

    def write(self, text: str) -> None:
        """Prints text as it is but for control characters, without a line feed at its end."""
        sys.stdout.write(escape_controls(text))
        sys.stdout.flush()

    def table(self, headings: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str) -> None:
        """Prints a table for people: aligned on a terminal, tab-separated when piped; nothing with `as_json`."""
        if self.as_json:
            return
        # A line feed would break the row, so it is escaped too.
        cells = [[escape_controls(str(cell)).replace("\n", "\\n") for cell in row] for row in rows]
        if not cells:
            self.say(empty)
        elif not self.console.is_terminal:
            sys.stdout.write("".join("\t".join(row) + "\n" for row in (headings, *cells)))
            sys.stdout.flush()
        else:
            self._draw(headings, cells)

    def _draw(self, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        from rich import box
        from rich.table import Table
        from rich.text import Text

        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
        for i, heading in enumerate(headings):
            numeric = all(row[i][:1].isdigit() or row[i] in ("", "–") for row in rows)
            table.add_column(heading, justify="right" if numeric else "left", overflow="fold")
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))
        self.console.print(table)


@cache
def _escaping_console() -> "type[Console]":
    """rich's console, which is heavy to import, with the control characters of texts escaped; its own are kept."""
    from rich.console import Console

    class EscapingConsole(Console):
        def render(self, renderable: "RenderableType", options: "ConsoleOptions | None" = None) -> "Iterable[Segment]":
            for segment in super().render(renderable, options):
                yield segment if segment.control else segment._replace(text=escape_controls(segment.text))

    return EscapingConsole


def to_json_dict(value: "Mapping[str, Any] | Message") -> dict[str, Any]:
    """A message or a mapping as a JSON-serialisable dictionary, with the field names of the protos."""
    if isinstance(value, Mapping):
        return dict(value)
    from google.protobuf import json_format

    return json_format.MessageToDict(value, preserving_proto_field_name=True)
