"""What commands print: tables and sentences for people, one JSON object per line for machines."""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from google.protobuf.message import Message
    from rich.console import Console


@dataclass(frozen=True)
class Output:
    """Prints for people or, with `as_json`, for machines."""

    as_json: bool = False

    @cached_property
    def console(self) -> "Console":
        """The terminal, or plain unwrapped text when piped."""
        from rich.console import Console

        return Console(highlight=False, soft_wrap=not sys.stdout.isatty())

    @property
    def is_live(self) -> bool:
        """Whether the output is a terminal that can be redrawn."""
        return not self.as_json and self.console.is_terminal

    def record(self, value: "Mapping[str, Any] | Message") -> None:
        """Prints one line of JSON; nothing without `as_json`."""
        if self.as_json:
            sys.stdout.write(json.dumps(to_json_dict(value), ensure_ascii=False) + "\n")
            sys.stdout.flush()

    def say(self, sentence: str) -> None:
        """Prints a line for people; nothing with `as_json`."""
        if not self.as_json:
            sys.stdout.write(f"{sentence}\n")
            sys.stdout.flush()

    def table(self, headings: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str) -> None:
        """Prints a table for people: aligned on a terminal, tab-separated when piped; nothing with `as_json`."""
        if self.as_json:
            return
        cells = [[str(cell) for cell in row] for row in rows]
        if not cells:
            self.say(empty)
        elif not self.console.is_terminal:
            for row in (headings, *cells):
                self.say("\t".join(row))
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


def to_json_dict(value: "Mapping[str, Any] | Message") -> dict[str, Any]:
    """A message or a mapping as a JSON-serialisable dictionary, with the field names of the protos."""
    if isinstance(value, Mapping):
        return dict(value)
    from google.protobuf import json_format

    return json_format.MessageToDict(value, preserving_proto_field_name=True)
