"""The records and media that a search for duplicates has met, in a file: by content, by keys of what is similar.

Only what stays is kept of records; a medium is compared with the first of each kind. The file is nameless, so that it
is gone with the process, however that ends.
"""

import math
import sqlite3
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from services.data.operations import fingerprints
from services.data.operations.fingerprints import Fingerprint, Views
from services.data.operations.sketches import Sketch

CACHE_KIB = 65_536
CANDIDATES_PER_KEY = 64
"""What many records or media have in common, such as one answer to all prompts, is compared with so many of them."""
TABLES = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
PRAGMA locking_mode = EXCLUSIVE;
CREATE TABLE records (number INTEGER PRIMARY KEY, content BLOB UNIQUE, id TEXT, rest BLOB, sketches BLOB, lengths BLOB,
                      media BLOB);
CREATE TABLE record_keys (key INTEGER, number INTEGER, PRIMARY KEY (key, number)) WITHOUT ROWID;
CREATE TABLE media (number INTEGER PRIMARY KEY, sha256 BLOB UNIQUE, leader INTEGER, shapes BLOB, views BLOB,
                    seconds REAL, aspect REAL);
CREATE TABLE media_keys (key INTEGER, number INTEGER, PRIMARY KEY (key, number)) WITHOUT ROWID;
"""


@dataclass(frozen=True, eq=False)
class KnownRecord:
    """What is kept of a record."""

    id: str
    content: bytes
    """The key of its content."""
    rest: bytes
    """The key of everything else."""
    sketches: tuple[Sketch, ...] = ()
    """Of the texts of its messages."""
    media: tuple[bytes, ...] = ()
    """Digests of its media."""


class Known:
    """Records and media by what they are like. Blocking; for one thread at a time."""

    def __init__(self, folder: Path) -> None:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".duplicates-", suffix=".db") as file:
            self._database = sqlite3.connect(file.name, check_same_thread=False, isolation_level=None)
            self._database.executescript(f"PRAGMA cache_size = -{CACHE_KIB};" + TABLES)

    def close(self) -> None:
        """Forgets everything."""
        self._database.close()

    def same(self, content: bytes) -> KnownRecord | None:
        """The record with a content."""
        row = self._one("SELECT number FROM records WHERE content = ?", content)
        return None if row is None else self._record(row[0])

    def similar(self, keys: Iterable[bytes]) -> list[KnownRecord]:
        """The records with one of these keys, those first that were added first."""
        return [self._record(number) for number in self._candidates("record_keys", keys)]

    def add(self, record: KnownRecord, keys: Iterable[bytes]) -> None:
        """Keeps a record."""
        sketches = b"".join(one.tobytes() for one in record.sketches)
        lengths = np.array([len(one) for one in record.sketches], np.uint16).tobytes()
        media = b"".join(record.media)
        row = (record.content, record.id, record.rest, sketches, lengths, media)
        added = self._database.execute("INSERT INTO records VALUES (NULL, ?, ?, ?, ?, ?, ?)", row)
        self._add_keys("record_keys", keys, added.lastrowid or 0)

    def has_medium(self, sha256: bytes) -> bool:
        """Whether a medium was added."""
        return self._one("SELECT 1 FROM media WHERE sha256 = ?", sha256) is not None

    def leader(self, sha256: bytes) -> int:
        """The number that a medium shares with the similar ones; of no other if it was not added."""
        row = self._one("SELECT leader FROM media WHERE sha256 = ?", sha256)
        return int(row[0]) if row is not None else -int.from_bytes(sha256[:7], "big") - 1

    def add_medium(self, sha256: bytes, found: Fingerprint | None, *, threshold: float) -> None:
        """Keeps a medium, with the first one that it is similar to; without a fingerprint, it is like none."""
        leader, keys = 0, list[bytes]()
        if found is not None:
            keys = list(fingerprints.keys(found))
            for number in self._candidates("media_keys", keys):
                other = self._fingerprint("number", number)
                if other is not None and fingerprints.similarity(found, other) >= threshold:
                    leader = number
                    break
        described: tuple[object, ...] = (None, None, None, None)
        if found is not None:
            shapes, views = (b"".join(parts) for parts in zip(*(_packed(one) for one in found.views), strict=True))
            described = (shapes, views, found.seconds, found.aspect)
        row = (sha256, leader, *described)
        added = self._database.execute("INSERT INTO media VALUES (NULL, ?, ?, ?, ?, ?, ?)", row)
        if not leader:
            self._database.execute("UPDATE media SET leader = number WHERE number = ?", (added.lastrowid,))
            self._add_keys("media_keys", keys, added.lastrowid or 0)

    def media_similarity(self, one: bytes, other: bytes) -> float:
        """How similar two media are, by their digests."""
        if one == other:
            return 1.0
        first, second = self._fingerprint("sha256", one), self._fingerprint("sha256", other)
        return 0.0 if first is None or second is None else fingerprints.similarity(first, second)

    def _record(self, number: int) -> KnownRecord:
        columns = "id, content, rest, sketches, lengths, media"
        row = self._one(f"SELECT {columns} FROM records WHERE number = ?", number)  # noqa: S608  columns of ours
        ends = np.cumsum(np.frombuffer(row[4], np.uint16).astype(np.int64))
        sketches = np.split(np.frombuffer(row[3], np.uint32), ends[:-1]) if len(ends) else []
        media = tuple(row[5][start : start + 32] for start in range(0, len(row[5]), 32))
        return KnownRecord(row[0], row[1], row[2], tuple(sketches), media)

    def _fingerprint(self, column: str, value: object) -> Fingerprint | None:
        columns = "shapes, views, seconds, aspect"
        row = self._one(f"SELECT {columns} FROM media WHERE {column} = ?", value)  # noqa: S608  a column of ours
        if row is None or row[0] is None:
            return None
        shapes = [tuple(row[0][start : start + 3]) for start in range(0, len(row[0]), 3)]
        ends = np.cumsum([math.prod(shape) for shape in shapes])
        pieces = np.split(np.frombuffer(row[1], np.uint8), ends[:-1])
        views = tuple(piece.reshape(shape) for piece, shape in zip(pieces, shapes, strict=True))
        return Fingerprint(views, row[2], row[3])

    def _candidates(self, table: str, keys: Iterable[bytes]) -> list[int]:
        query = f"SELECT number FROM {table} WHERE key = ? LIMIT {CANDIDATES_PER_KEY}"  # noqa: S608  a table of ours
        found = {row[0] for key in keys for row in self._database.execute(query, (_number(key),))}
        return sorted(found)

    def _add_keys(self, table: str, keys: Iterable[bytes], number: int) -> None:
        rows = [(_number(key), number) for key in keys]
        self._database.executemany(f"INSERT OR IGNORE INTO {table} VALUES (?, ?)", rows)  # noqa: S608  a table of ours

    def _one(self, query: str, value: object) -> Any:
        return self._database.execute(query, (value,)).fetchone()


def _number(key: bytes) -> int:
    return xxhash.xxh64_intdigest(key) - (1 << 63)


def _packed(views: Views) -> tuple[bytes, bytes]:
    return bytes(views.shape), views.tobytes()
