"""Whether a picture file goes on to its end: decoders take some that are cut off for whole ones.

Formats say where they end, by a trailer or by lengths, and nothing is decoded to find out. Bytes behind the end are no
fault: phones put sounds and videos there.
"""

import io
import re
import struct
from collections.abc import Callable
from typing import BinaryIO

from omnialign.media.bounds import Source, as_file, size_bytes

NEXT_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
"""In the scan of a JPEG: neither a stuffed 0xFF nor one of the markers from which decoding can restart."""
JPEG_END, JPEG_SCAN = 0xD9, 0xDA
JPEG_BARE = (0x01, *range(0xD0, 0xD9))
"""Markers without a length."""
GIF_END, GIF_EXTENSION, GIF_PICTURE = b"\x3b", b"\x21", b"\x2c"
QOI_END = b"\0" * 7 + b"\1"
PCX_PALETTE_BYTES, PCX_PALETTE = 769, 0x0C
MAX_PAGES = 100_000
TIFF_PIXEL_TAGS = range(256, 348)
"""Sizes, colours and places of pixels; what else a page says may be broken."""
TIFF_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 16: 8, 17: 8, 18: 8}
"""The size of a value, by its kind."""


def lacks(source: Source) -> str:
    """What a picture file lacks at its end, or ""; a format that does not say where it ends lacks nothing."""
    file = as_file(source)
    size = size_bytes(file)
    head = file.read(12)
    for magic, place, reaches_end, end in FORMATS:
        if head[place:].startswith(magic):
            return "" if reaches_end(file, size) else f"its {size} bytes end before {end}"
    return ""


def _png(file: BinaryIO, size: int) -> bool:
    place = 8
    while place + 12 <= size:
        file.seek(place)
        place += 12 + int.from_bytes(file.read(4), "big")
        if file.read(4) == b"IEND":
            return place <= size
    return False


def _jpeg(file: BinaryIO, size: int) -> bool:
    file.seek(0)
    data, place = file.read(), 2
    while found := NEXT_MARKER.search(data, place):
        marker, place = data[found.start() + 1], found.end()
        if marker == JPEG_END:
            return True
        if marker not in JPEG_BARE:
            place += int.from_bytes(data[place : place + 2], "big")
    return False


def _gif(file: BinaryIO, size: int) -> bool:
    file.seek(6)
    _skip_colours(file, file.read(7)[4:5])
    while kind := file.read(1):
        if kind == GIF_END:
            return True
        if kind == GIF_PICTURE:
            _skip_colours(file, file.read(9)[8:9])
        if kind in (GIF_PICTURE, GIF_EXTENSION):
            file.seek(1, io.SEEK_CUR)  # the width of codes, or what kind of extension
            while (block := file.read(1)) > b"\0":
                file.seek(block[0], io.SEEK_CUR)
    return False


def _skip_colours(file: BinaryIO, flags: bytes) -> None:
    if flags and flags[0] & 0x80:
        file.seek(3 << ((flags[0] & 7) + 1), io.SEEK_CUR)


def _tiff(file: BinaryIO, size: int) -> bool:
    """Whether the directories of all pages are there, with what they say about pixels; decoders notice the rest."""
    file.seek(0)
    head = file.read(16)
    order, is_big = "<" if head[:2] == b"II" else ">", 43 in head[2:4]
    count, entry, link = (struct.Struct(order + one) for one in (("Q", "HHQQ", "Q") if is_big else ("H", "HHII", "I")))
    place = head[8:16] if is_big else head[4:8]
    for _ in range(MAX_PAGES):
        if len(place) < link.size:
            return False
        (start,) = link.unpack(place)
        if not start:
            return True
        file.seek(start)
        counted = file.read(count.size)
        entries = file.read(entry.size * count.unpack(counted)[0]) if len(counted) == count.size else b""
        place = file.read(link.size)
        for tag, kind, number, value in entry.iter_unpack(entries[: len(entries) // entry.size * entry.size]):
            length = number * TIFF_BYTES.get(kind, 0)
            if tag in TIFF_PIXEL_TAGS and length > link.size and value + length > size:
                return False
    return True


def _boxes(file: BinaryIO, size: int) -> bool:
    """Whether the boxes of an AVIF or a JPEG 2000 are there to their ends."""
    place = 0
    while place < size:
        file.seek(place)
        head = file.read(16).ljust(16, b"\0")
        length, name, long = struct.unpack(">I4sQ", head)
        if not name.isascii() or not name.decode("ascii").isprintable() or length == 0:
            return True  # no box, or one that goes on to the end
        place += max(8, long if length == 1 else length)
    return place == size


def _riff(file: BinaryIO, size: int) -> bool:
    file.seek(4)
    return int.from_bytes(file.read(4), "little") + 8 <= size


def _ico(file: BinaryIO, size: int) -> bool:
    file.seek(4)
    entries = [file.read(16) for _ in range(int.from_bytes(file.read(2), "little"))]
    return all(len(one) == 16 and sum(struct.unpack("<II", one[8:])) <= size for one in entries)


def _qoi(file: BinaryIO, size: int) -> bool:
    file.seek(max(0, size - len(QOI_END)))
    return file.read() == QOI_END


def _pcx(file: BinaryIO, size: int) -> bool:
    """Whether a PCX of one plane has its palette, which stands behind the pixels."""
    file.seek(0)
    head = file.read(70)
    if len(head) < 70 or head[3] != 8 or head[65] != 1:
        return len(head) == 70
    file.seek(max(0, size - PCX_PALETTE_BYTES))
    return size > PCX_PALETTE_BYTES and file.read(1)[0] == PCX_PALETTE


FORMATS: tuple[tuple[bytes, int, Callable[[BinaryIO, int], bool], str], ...] = (
    (b"\x89PNG\r\n\x1a\n", 0, _png, "the chunk that ends a PNG"),
    (b"\xff\xd8\xff", 0, _jpeg, "the marker that ends a JPEG"),
    (b"GIF8", 0, _gif, "the byte that ends a GIF"),
    (b"II*\0", 0, _tiff, "the directory of a page does"),
    (b"MM\0*", 0, _tiff, "the directory of a page does"),
    (b"II+\0", 0, _tiff, "the directory of a page does"),
    (b"MM\0+", 0, _tiff, "the directory of a page does"),
    (b"WEBP", 8, _riff, "the length in its header is reached"),
    (b"ftypavif", 4, _boxes, "a part that it names does"),
    (b"ftypavis", 4, _boxes, "a part that it names does"),
    (b"ftypmif1", 4, _boxes, "a part that it names does"),
    (b"jP  ", 4, _boxes, "a part that it names does"),
    (b"\0\0\1\0", 0, _ico, "a picture that it names does"),
    (b"qoif", 0, _qoi, "the marker that ends a QOI"),
    (b"\x0a\x05\x01", 0, _pcx, "its palette"),
)
"""How formats begin and at which byte, whether a file reaches its end, and what it then ends before."""
