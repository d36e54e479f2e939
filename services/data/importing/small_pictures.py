"""Small pictures in rows, which are decoded many at a time before their rows are read.

Decoders and the code that reads rows evict one another from the processor's caches: in turn, row by row, both together
take half as long again.
"""

from collections.abc import Iterable, Iterator
from typing import Any

from services.data.importing.identity import MAPPINGS

GROUP_ROWS = 64
SMALL_BYTES = 64 * 1024
Place = tuple[int, tuple[int, Any]]
"""How many rows of the file come before a row, the number that people know it by, and the row."""


def groups(rows: Iterable[Place]) -> Iterator[list[Place]]:
    """The rows, some at a time. One that may be large ends its group, so that few such are in memory at once."""
    group = list[Place]()
    for place in rows:
        group.append(place)
        if len(group) >= GROUP_ROWS or not _is_small(place[1][1]):
            yield group
            group = []
    if group:
        yield group


def small_bytes(row: Any) -> Iterator[bytes]:
    """The values of a row that may be small pictures."""
    for value in row.values() if isinstance(row, MAPPINGS) else ():
        found = value.get("bytes") if isinstance(value, dict) else value
        if isinstance(found, bytes) and len(found) <= SMALL_BYTES:
            yield found


def _is_small(row: Any) -> bool:
    return isinstance(row, MAPPINGS) and _are_small(row.values())


def _are_small(values: Iterable[Any]) -> bool:
    for value in values:
        if isinstance(value, str | bytes):
            if len(value) > SMALL_BYTES:
                return False
        elif isinstance(value, list) or (isinstance(value, dict) and not _are_small(value.values())):
            return False
    return True
