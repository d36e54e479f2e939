"""Rows of one prompt as one row: files with one question per row have several rows for each prompt.

A row that cannot belong to a group stays a row of its own, and is refused or read as such.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

QUESTIONS = "questions"
"""The column of a joined row that holds the rows it was joined from. Exported rows of a quarantine have it."""
ROW = "row"
"""In each of these rows, its number in the file."""


def join_rows(rows: Iterable[tuple[int, Any]], key: str) -> Iterator[tuple[int, Any]]:
    """The rows in the order of each group's first, whose number they have. Rows without a question stay as they are."""
    joined: dict[str, tuple[int, dict[str, Any]]] = {}
    for number, row in rows:
        name = row.get(key) if isinstance(row, Mapping) else None
        if not isinstance(name, int | str) or "question" not in row:
            yield number, row
            continue
        first = {column: row.get(column) for column in (key, "prompt", "split", "labels") if column in row}
        _, group = joined.setdefault(f"{type(name).__name__}/{name}", (number, {**first, QUESTIONS: []}))
        group[QUESTIONS].append({ROW: number, **{column: found for column, found in row.items() if column != key}})
    yield from joined.values()
