"""Small media, many in one object: `media/packs/ab/cdef...`, and where each of them lies in the database.

A pack is stored before the rows that point into it are written; a crash between the two leaves a pack that nobody
points to. Where two writers put the same medium, one row wins, and the other copy is waste. The garbage collector
finds both. After a power cut, rows may point into a pack that is damaged or gone: then whoever puts the medium again
replaces its row, and no record names it before that, since records are written after `ObjectStore.sync`.
"""

from collections.abc import Iterable, Iterator, Sequence
from operator import methodcaller
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy import Connection

from services.data.garbage.condemned import PACK, Condemned
from services.data.media_keys import split
from services.data.objects import ObjectStore
from services.data.packs import PackEntry, ending, entries_of
from services.data.store import NAMES_PER_QUERY, PACKED_MEDIA
from services.runtime.database import Database, execute_many

PREFIX = "media/packs/"
PACKED_BYTES = 256 * 1024
"""Size up to which media are packed."""
MAX_PACK_BYTES = 8 * 1024 * 1024


class ValidMedium(NamedTuple):
    """Bytes that were decoded in the sandbox and are about to be stored."""

    data: bytes | memoryview
    sha256: str
    mime_type: str


class Place(NamedTuple):
    """Where the bytes of a medium lie: in the object `key`, from `offset` on."""

    key: str
    offset: int
    size_bytes: int
    mime_type: str


PLACES = sa.text(
    'SELECT sha256, pack, "offset", size_bytes, mime_type FROM packed_media WHERE sha256 IN :wanted'
).bindparams(sa.bindparam("wanted", expanding=True))
"""As text: both databases take and give bytes as they are, and converting them takes as long as the look-up."""


class PackedMedia:
    """The packs and their rows. Blocking; safe for concurrent threads and processes."""

    def __init__(self, database: Database, objects: ObjectStore, *, condemned: Condemned) -> None:
        self._database, self._objects, self._condemned = database, objects, condemned

    def find(self, digests: Iterable[str]) -> dict[str, Place]:
        """The places of those of the media that are packed, by digest."""
        wanted = [bytes.fromhex(digest) for digest in dict.fromkeys(digests)]
        if not wanted:
            return {}
        return self._database.read_here(lambda connection: _find(connection, wanted))

    def add(self, media: Sequence[ValidMedium]) -> None:
        """Stores media, each of which is given once, in as few packs as their sizes allow.

        They survive a power cut after `ObjectStore.sync`: to wait for each pack takes longer than to write it.
        Raises STORAGE_FULL, OBJECT_LEAVES.
        """
        for some in _packs(media):
            entries = entries_of([(bytes.fromhex(one.sha256), len(one.data), one.mime_type) for one in some])
            name, end = ending(entries)
            self._condemned.pardon([f"{PACK}{name}"])
            self._objects.put_bytes(_key(name), b"".join([*(one.data for one in some), end]), durable=False)
            self._point(name, entries)

    def forget(self, digests: Iterable[str]) -> None:
        """Removes the rows of those of the media that have one; their bytes are waste from then on."""
        for digest in self.find(digests):  # a look costs much less than a write, and nearly none has one
            row = PACKED_MEDIA.delete().where(PACKED_MEDIA.c.sha256 == bytes.fromhex(digest))
            self._database.write_here(methodcaller("execute", row))

    def _point(self, name: str, entries: Sequence[PackEntry]) -> None:
        rows = [
            {
                "sha256": entry.sha256,
                "pack": bytes.fromhex(name),
                "offset": entry.offset,
                "size_bytes": entry.size_bytes,
                "mime_type": entry.mime_type,
            }
            for entry in sorted(entries, key=lambda entry: entry.sha256)  # so that writers cannot deadlock
        ]
        insert = self._database.insert(PACKED_MEDIA)
        # The newest row wins: it replaces one whose bytes were found to be damaged.
        newest = {name: insert.excluded[name] for name in ("pack", "offset", "size_bytes", "mime_type")}
        statement = insert.on_conflict_do_update(index_elements=["sha256"], set_=newest)
        self._database.write_here(lambda connection: execute_many(connection, statement, rows))


def _find(connection: Connection, wanted: Sequence[bytes]) -> dict[str, Place]:
    found, keys = dict[str, Place](), dict[bytes, str]()
    for start in range(0, len(wanted), NAMES_PER_QUERY):
        rows = connection.execute(PLACES, {"wanted": wanted[start : start + NAMES_PER_QUERY]}).all()
        for sha256, pack, offset, size_bytes, mime_type in rows:
            key = keys.get(pack) or keys.setdefault(pack, _key(pack.hex()))
            found[sha256.hex()] = Place(key, offset, size_bytes, mime_type)
    return found


def _packs(media: Sequence[ValidMedium]) -> Iterator[list[ValidMedium]]:
    """The media in groups, each of which fits into a pack."""
    group, held = list[ValidMedium](), 0
    for medium in media:
        if group and held + len(medium.data) > MAX_PACK_BYTES:
            yield group
            group, held = [], 0
        group.append(medium)
        held += len(medium.data)
    if group:
        yield group


def _key(name: str) -> str:
    return PREFIX + split(name)
