"""One pass over a data file, in child processes: rows become records, and their media are hashed and decoded there.

The rows of a file are cut into units. Each of several children takes every so many of them, and sends its rows in
pieces, with their media: bytes cross to the service once. A medium that ends its process is found by a second attempt,
in which each medium is decoded in a process of its own; it is refused, and takes no other along.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from services.data.importing.identity import Digests
from services.data.importing.media_files import MediaFiles, Visit
from services.data.importing.media_reader import MediaReader
from services.data.importing.readers import read_units
from services.data.importing.reading import Reading
from services.data.importing.rows import ReadRow, RowReader
from services.data.importing.small_pictures import groups, small_bytes
from services.data.importing.sources import SourceFile
from services.data.importing.units import Share
from services.data.media_validation import MediaLimits

PIECE_ROWS = 512
PIECE_BYTES = 8 * 1024 * 1024
PIECE_SECONDS = 0.2


@dataclass(frozen=True)
class Piece:
    """Some consecutive rows of a unit, as records, and the media that these name."""

    unit: int
    is_last: bool
    """Whether the unit ends with it. A unit of which nothing is wanted has one piece without rows."""
    start: int
    """How many rows of the file come before it."""
    rows: list[tuple[bytes, str, str, int, str]]
    """Each as the values of a `ReadRow`: as objects, they would take several times as long to be sent."""
    media: list[tuple[str, str, int, str]]
    """Each as the values of a `ReadMedium`."""
    data: NDArray[np.uint8]
    """The bytes of the media, one after the other."""
    visits: list[Visit]
    """The media files that rows named."""

    @property
    def end(self) -> int:
        """How many rows of the file come before what follows it."""
        return self.start + len(self.rows)


def read_pieces(
    source: SourceFile, reading: Reading, limits: MediaLimits, share: Share, start: int, careful_until: int
) -> Iterator[Piece]:
    """The pieces of this share of a file, from the row `start` on. Up to the row `careful_until`, or the first medium
    that ends its process, media are decoded in processes of their own.

    Raises SOURCE_MALFORMED, SOURCE_TOO_WIDE, SOURCE_EXPANDS.
    """
    digests = Digests()
    media = MediaReader(limits, digests)
    files = MediaFiles(source, keep=media)
    reader = RowReader(source, files=files, reading=reading, digests=digests)
    for unit, first, rows in read_units(source, reading, share):
        place, read = max(start, first), _Read()
        for group in groups((index, row) for index, row in enumerate(rows, first) if index >= start):
            digests.forget()
            if group[0][0] >= careful_until or media.has_found_killer:
                media.decode_ahead(data for _, (_, row) in group for data in small_bytes(row))
            for index, (number, row) in group:
                media.is_careful = index < careful_until and not media.has_found_killer
                read.add(reader.read(number, row))
                if read.is_full(media):
                    yield Piece(unit, False, place, read.rows, *media.take(), files.take())
                    place, read = index + 1, _Read()
        yield Piece(unit, True, place, read.rows, *media.take(), files.take())


class _Read:
    """The rows of the next piece, so far."""

    def __init__(self) -> None:
        self.rows = list[tuple[bytes, str, str, int, str]]()
        self._size_bytes, self._begun = 0, time.monotonic()

    def add(self, row: ReadRow) -> None:
        self.rows.append(row[:])
        self._size_bytes += len(row.record)

    def is_full(self, media: MediaReader) -> bool:
        """Whether the rows, with their media, are enough to be sent."""
        if media.is_careful and media.has_found_killer:  # so that this much is done, should there be another one
            return True
        size_bytes = media.size_bytes + self._size_bytes
        is_late = time.monotonic() - self._begun > PIECE_SECONDS
        return len(self.rows) >= PIECE_ROWS or size_bytes >= PIECE_BYTES or is_late
