"""The rows of a file in order, while children read the next ones; their media are stored on the way.

What is held is bounded: two pieces for each child, of which one is stored while the child reads the next, and the rows
of a few pieces that wait for their turn.
"""

import asyncio
import hashlib
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import starmap
from pathlib import Path
from typing import NamedTuple

from google.protobuf.message import DecodeError

from omnialign.content import contributed_parts_of, parts_of
from omnialign.errors import InvalidArgument, OmnialignError
from omnialign.v1.content_pb2 import Media
from omnialign.v1.record_pb2 import Record
from services.data.importing.media_files import Visit
from services.data.importing.media_reader import ReadMedium
from services.data.importing.pieces import PIECE_ROWS, Piece, read_pieces
from services.data.importing.reading import Reading
from services.data.importing.refusal import killed_reader
from services.data.importing.rows import ReadRow
from services.data.importing.sources import SourceFile
from services.data.importing.units import Share
from services.data.media_store import Claim, MediaStore, ValidMedium
from services.data.media_validation import MediaLimits
from services.data.objects.base import run_in_pool
from services.data.record_rows import UnnamedRow
from services.sandbox.limits import Limits
from services.sandbox.pool import Sandbox
from services.sandbox.worker import preload

READING_LIMITS = Limits(cpu_seconds=120.0, wall_seconds=600.0, memory_bytes=2 << 30)
"""What looking through a file, or reading one piece of it, may take."""
AHEAD_PIECES = 8
ROWS_PER_CHILD = 64
"""A file with fewer rows is not worth another child."""

preload("services.data.importing.pieces")


class Row(NamedTuple):
    """A row as a record whose media are stored; the rest is as of `ReadRow`."""

    record: UnnamedRow
    id: str
    """Its own; "" if it has none."""
    aside: tuple[str, str] | None
    """The reason and the message of a record that is set aside."""
    media: list[tuple[str, int]]
    """Digests, and sizes in bytes."""
    digest: str
    content: str
    number: int
    mends: str


@dataclass(frozen=True)
class Stored:
    """A piece whose media are stored."""

    unit: int
    is_last: bool
    rows: list[Row]
    end: int
    """How many rows of the file come before what follows it."""
    visits: list[Visit]


class Readers:
    """Reads files for an import."""

    def __init__(
        self, *, sandbox: Sandbox, media: MediaStore, limits: MediaLimits, pool: ThreadPoolExecutor, most: int
    ) -> None:
        """`most` is the number of children that read a file together."""
        self._sandbox, self._media, self._limits, self._pool = sandbox, media, limits, pool
        self._most = min(most, os.cpu_count() or 1)

    async def read(self, file: SourceFile, reading: Reading, *, rows: int, start: int = 0) -> AsyncIterator[Stored]:
        """The rows of a file of so many in order, from the row `start` on.

        Raises the reasons of `read_pieces`, SOURCE_KILLED_READER, and MEDIA_DIGEST_MISMATCH for a file that changes.
        """
        count = max(1, min(self._most, (rows - start) // ROWS_PER_CHILD))
        streams = [
            _Stream(
                self._pieces(file, reading, Share(index, count), start),
                store=lambda piece: run_in_pool(self._pool, self._store, piece, file),
                sandbox=self._sandbox,
            )
            for index in range(count)
        ]
        try:
            unit = 0
            while heads := [stream for stream in streams if await stream.head() is not None]:
                nearest = min(heads, key=lambda stream: stream.unit)
                unit = nearest.unit
                while nearest.unit == unit:
                    piece = nearest.take()
                    yield piece
                    if piece.is_last or await nearest.head() is None:
                        break
        finally:
            for stream in streams:
                stream.close()

    def _pieces(self, file: SourceFile, reading: Reading, share: Share, start: int) -> Generator[Piece, None, None]:
        """The pieces of a share (blocking). A piece that ends its process is read again, carefully."""
        careful_until, stuck, done = 0, -1, -1
        while True:
            pieces = self._sandbox.iterate(
                read_pieces, file, reading, self._limits, share, start, careful_until,
                refusal=killed_reader, limits=READING_LIMITS,
            )  # fmt: skip
            try:
                for piece in pieces:
                    if piece.unit <= done:  # all of it came before the process ended
                        continue
                    yield piece
                    start, done = piece.end, piece.unit if piece.is_last else done
                return
            except InvalidArgument as error:
                if error.reason != "SOURCE_KILLED_READER" or start == stuck:
                    raise
                stuck, careful_until = start, start + PIECE_ROWS
            finally:
                pieces.close()

    def _store(self, piece: Piece, file: SourceFile) -> Stored:
        """Stores the media of a piece, whose digests are computed again: a child is not believed."""
        at, valid, stored = 0, list[ValidMedium](), dict[str, Media]()
        for medium in starmap(ReadMedium, piece.media):
            if medium.path:
                claim = Claim(sha256=medium.sha256)
                stored[medium.sha256] = self._media.put_file(_inside(medium.path, file.root), claim=claim)[0]
                continue
            part = piece.data.data[at : at + medium.size_bytes]
            valid.append(ValidMedium(part, hashlib.sha256(part).hexdigest(), medium.mime_type))
            at += medium.size_bytes
        for found in self._media.put_valid(valid):
            if isinstance(found, OmnialignError):
                raise found
            stored[found.sha256] = found
        rows = [_row(row, stored) for row in starmap(ReadRow, piece.rows)]
        return Stored(piece.unit, piece.is_last, rows, piece.end, piece.visits)


class _Stream:
    """The pieces of one child, a few of them ahead."""

    def __init__(
        self, pieces: Generator[Piece, None, None], *, store: Callable[[Piece], Awaitable[Stored]], sandbox: Sandbox
    ) -> None:
        self._pieces, self._store, self._sandbox = pieces, store, sandbox
        self._turn = threading.Lock()
        self._ready: asyncio.Queue[Stored | BaseException | None] = asyncio.Queue(AHEAD_PIECES)
        self._head: Stored | None = None
        self._has_ended = False
        self._reading = asyncio.create_task(self._read())

    @property
    def unit(self) -> int:
        """The unit of the next piece, which there must be."""
        assert self._head is not None
        return self._head.unit

    async def head(self) -> Stored | None:
        """The next piece, which stays; None at the end."""
        if self._head is None and not self._has_ended:
            found = await self._ready.get()
            if isinstance(found, BaseException):
                raise found
            self._head, self._has_ended = found, found is None
        return self._head

    def take(self) -> Stored:
        """The next piece, which there must be."""
        assert self._head is not None
        found, self._head = self._head, None
        return found

    def close(self) -> None:
        """Stops reading, once a thread that still reads has its piece."""
        self._reading.cancel()
        with suppress(RuntimeError):  # the sandbox has shut down, and ends the child
            self._sandbox.submit(self._end)

    def _end(self) -> None:
        with self._turn:
            self._pieces.close()

    def _next(self) -> Piece | None:
        with self._turn:
            return next(self._pieces, None)

    async def _read(self) -> None:
        end: BaseException | None = None
        try:
            piece = await self._sandbox.in_thread(self._next)
            while piece is not None:
                both = self._store(piece), self._sandbox.in_thread(self._next)
                stored, following = await asyncio.gather(*both, return_exceptions=True)
                if isinstance(stored, BaseException):
                    raise stored
                await self._ready.put(stored)
                if isinstance(following, BaseException):
                    raise following
                piece = following
        except Exception as error:
            end = error
        await self._ready.put(end)


def _row(row: ReadRow, stored: Mapping[str, Media]) -> Row:
    """A row whose media are among those stored. Raises SOURCE_KILLED_READER if they are not."""
    try:
        record = Record.FromString(row.record)
    except DecodeError as error:
        raise killed_reader("sent rows that are no records") from error
    named = [part.media for part in parts_of(record) if part.HasField("media")]
    media = named + [part.media for part in contributed_parts_of(record) if part.HasField("media")]
    for one in media:
        if (known := stored.get(one.sha256)) is None:
            raise killed_reader("sent rows without their media")
        if known != one:  # its type was told by an earlier release
            one.CopyFrom(known)
    name, record.id = record.id, ""
    aside = (record.quarantine.reason, record.quarantine.message) if record.HasField("quarantine") else None
    sizes = [(one.sha256, one.size_bytes) for one in media]
    blob = record.SerializeToString(deterministic=True)
    digests = bytes.fromhex("".join(dict.fromkeys([one.sha256 for one in named])))
    unnamed = UnnamedRow(record.subtask, record.split, blob, digests)
    return Row(unnamed, name, aside, sizes, row.digest, row.content, row.number, row.mends)


def _inside(path: str, root: Path) -> Path:
    """A path that a child names. Raises SOURCE_KILLED_READER if it leads out of the folder of the data."""
    resolved = Path(path).resolve()
    if not resolved.is_relative_to(root.resolve()):
        raise killed_reader("named a file outside the folder of the data")
    return resolved
