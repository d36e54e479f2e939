"""How the rows of a file are shared out: in units, of which each of several readers takes every so many."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

UNIT_ROWS = 512
Unit = tuple[int, int, Iterator[tuple[int, Any]]]
"""Its number, how many rows of the file come before it, and its rows, each with the number that people know it by."""


@dataclass(frozen=True)
class Share:
    """The units of one of `count` readers."""

    index: int = 0
    count: int = 1

    def has(self, unit: int) -> bool:
        """Whether the unit is this reader's."""
        return unit % self.count == self.index

    def has_row(self, index: int) -> bool:
        """Whether a row is this reader's, by how many come before it in a file whose units are cut by rows."""
        return self.has(index // UNIT_ROWS)


def units_of(rows: Iterable[tuple[int, Any]], share: Share) -> Iterator[Unit]:
    """The units of a share, cut by rows. The rows of a unit must be taken before the next one is."""
    rest, unit = iter(rows), 0
    while (first := next(rest, None)) is not None:
        mine = chain((first,), islice(rest, UNIT_ROWS - 1))
        if share.has(unit):
            yield unit, unit * UNIT_ROWS, mine
        for _ in mine:  # those of others
            pass
        unit += 1
