"""What the headers of sound and video files say that FFmpeg does not pass on. Files are left anywhere."""

import io
import struct
from typing import BinaryIO

STREAMED_WAV_BYTES = 0x7FFF_0000
"""Programs that write a WAV to a pipe put 0, or a number from here to 2^32, where its length belongs."""
WAV_SLACK_BYTES = 64
"""Some programs count the headers as well."""
MAX_WAV_CHUNKS = 1000
MAX_BOXES = 1000
TAG_HEADER_BYTES = 10
FIRST_FRAME_BYTES = 256
"""Enough of an MP3's first frame to find its count of frames."""


def is_webm(file: BinaryIO) -> bool:
    """Whether a Matroska file says that it is WebM."""
    file.seek(0)
    head = file.read(64)
    return head[:4] == b"\x1aE\xdf\xa3" and b"webm" in head


def short_wav(file: BinaryIO) -> str:
    """What a truncated WAV lacks of its samples, or "": decoders take it as complete.

    The size of the chunk with the samples counts, not that of the whole file, which many programs get wrong.
    """
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    head = file.read(12)
    if head[:4] != b"RIFF" or head[8:] != b"WAVE":
        return ""
    for _ in range(MAX_WAV_CHUNKS):
        name, claimed = file.read(4), int.from_bytes(file.read(4), "little")
        found = size - file.tell()
        if name == b"data" and 0 < claimed < STREAMED_WAV_BYTES and found < claimed - WAV_SLACK_BYTES:
            return f"the WAV file has {found} of its {claimed} bytes of samples"
        if name == b"data" or not name:
            return ""
        file.seek(claimed + claimed % 2, io.SEEK_CUR)
    return ""


def counts_its_frames(file: BinaryIO) -> bool:
    """Whether an MP3 has a Xing header, which counts its frames; without one, its length is guessed."""
    file.seek(0)
    tag = file.read(TAG_HEADER_BYTES)
    if tag[:3] == b"ID3":  # its size is in four groups of seven bits
        file.seek(TAG_HEADER_BYTES + sum((byte & 0x7F) << 7 * place for place, byte in enumerate(reversed(tag[6:]))))
    else:
        file.seek(0)
    frame = file.read(FIRST_FRAME_BYTES)
    return b"Xing" in frame or b"Info" in frame


def lacks_index(file: BinaryIO) -> bool:
    """Whether an MP4 or MOV has no index: most programs write it last, so that it is the first to be lost."""
    size, place = file.seek(0, io.SEEK_END), 0
    for number in range(MAX_BOXES):
        file.seek(place)
        head = file.read(16).ljust(16, b"\0")
        length, name, long = struct.unpack(">I4sQ", head)
        if name == b"moov" or (number == 0 and name != b"ftyp"):
            return False
        place += max(8, long if length == 1 else length)
        if length == 0 or place >= size:
            return True
    return False
