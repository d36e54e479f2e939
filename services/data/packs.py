"""The format of a pack: many small media in one object, which ends with an index of what it holds.

    bytes of the media, one after the other
    per medium: digest (32 bytes), size (u32), length of the MIME type (u8), MIME type
    number of media (u32), size of the index (u32), SHA-256 of the index (32 bytes), "OMNIPACK"

Numbers are big-endian. The media lie in the order of the index, so that their sizes tell where they begin. A pack is
named by the digest of its index: the same media put again in the same order give the same object.
"""

import hashlib
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass

MAGIC = b"OMNIPACK"
_ENTRY = struct.Struct(">32sIB")
_TRAILER = struct.Struct(">II32s8s")
MAX_TYPE_CHARACTERS = 255
TRAILER_BYTES = _TRAILER.size

ReadRange = Callable[[int, int], bytes]
"""Reads the bytes of an object from an offset on: at most so many."""


class PackDamaged(ValueError):
    """The bytes are no pack, or one that was cut off or changed."""


@dataclass(frozen=True, slots=True)
class PackEntry:
    """A medium in a pack."""

    sha256: bytes
    """The digest itself, 32 bytes."""
    offset: int
    """Where its first byte is in the pack."""
    size_bytes: int
    mime_type: str


def entries_of(media: Sequence[tuple[bytes, int, str]]) -> list[PackEntry]:
    """Where media lie that are given in this order as digest, size in bytes and MIME type."""
    entries, offset = list[PackEntry](), 0
    for sha256, size_bytes, mime_type in media:
        entries.append(PackEntry(sha256, offset, size_bytes, mime_type))
        offset += size_bytes
    return entries


def ending(entries: Sequence[PackEntry]) -> tuple[str, bytes]:
    """The name of a pack of these media, and what follows their bytes."""
    index = b"".join(_encoded(entry) for entry in entries)
    digest = hashlib.sha256(index)
    return digest.hexdigest(), index + _TRAILER.pack(len(entries), len(index), digest.digest(), MAGIC)


def read_entries(size_bytes: int, read: ReadRange) -> list[PackEntry]:
    """The media in a pack of this size, of which only the end is read. Raises PackDamaged."""
    if size_bytes < TRAILER_BYTES or len(trailer := read(size_bytes - TRAILER_BYTES, TRAILER_BYTES)) != TRAILER_BYTES:
        raise PackDamaged("the object is shorter than any pack")
    count, index_bytes, digest, magic = _TRAILER.unpack(trailer)
    end = size_bytes - TRAILER_BYTES
    if magic != MAGIC or index_bytes > end:
        raise PackDamaged("the object does not end as a pack does")
    index = read(end - index_bytes, index_bytes)
    if hashlib.sha256(index).digest() != digest:
        raise PackDamaged("the index of the pack is damaged")
    entries = entries_of(_decoded(index))
    if len(entries) != count or sum(entry.size_bytes for entry in entries) != end - index_bytes:
        raise PackDamaged("the index of the pack tells of another pack")
    return entries


def _encoded(entry: PackEntry) -> bytes:
    mime_type = entry.mime_type.encode("ascii")
    return _ENTRY.pack(entry.sha256, entry.size_bytes, len(mime_type)) + mime_type


def _decoded(index: bytes) -> list[tuple[bytes, int, str]]:
    media, position = list[tuple[bytes, int, str]](), 0
    while position < len(index):
        sha256, size_bytes, length = _ENTRY.unpack_from(index, position)
        position += _ENTRY.size + length
        media.append((sha256, size_bytes, index[position - length : position].decode("ascii")))
    return media
