"""MIME types of media: their modality, other names for them, and what a file's first bytes suggest.

First bytes are a hint: an MP4 may hold a sound or a picture. `media_validation` decides by decoding.
"""

from dataclasses import dataclass

from omnialign.media.pictures import RAW_COMMAND
from omnialign.v1 import content_pb2

HEAD_BYTES = 64

IMAGE, AUDIO, VIDEO = content_pb2.MODALITY_IMAGE, content_pb2.MODALITY_AUDIO, content_pb2.MODALITY_VIDEO
MODALITIES: dict[str, int] = {"image": IMAGE, "audio": AUDIO, "video": VIDEO}
ALIASES: dict[str, str] = {
    "image/jpg": "image/jpeg", "image/pjpeg": "image/jpeg", "image/tif": "image/tiff", "image/x-bmp": "image/bmp",
    "image/x-ms-bmp": "image/bmp", "image/jpx": "image/jp2", "image/x-ppm": "image/x-portable-anymap",
    "image/x-portable-pixmap": "image/x-portable-anymap", "image/x-portable-graymap": "image/x-portable-anymap",
    "image/x-icon": "image/vnd.microsoft.icon", "image/x-targa": "image/x-tga", "image/apng": "image/png",
    "audio/x-wav": "audio/wav", "audio/wave": "audio/wav", "audio/vnd.wave": "audio/wav",
    "audio/x-flac": "audio/flac", "audio/mp3": "audio/mpeg", "application/ogg": "audio/ogg", "audio/opus": "audio/ogg",
    "audio/vorbis": "audio/ogg", "audio/x-m4a": "audio/mp4", "audio/m4a": "audio/mp4", "audio/aacp": "audio/aac",
    "audio/x-aac": "audio/aac", "audio/x-aiff": "audio/aiff", "audio/x-au": "audio/basic",
    "audio/vnd.dolby.dd-raw": "audio/ac3", "video/quicktime": "video/mp4", "video/3gpp": "video/mp4",
    "video/avi": "video/x-msvideo", "video/x-mkv": "video/x-matroska", "video/matroska": "video/x-matroska",
}  # fmt: skip
PREFIXES: tuple[tuple[bytes, str], ...] = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"fLaC", "audio/flac"),
    (b"OggS", "audio/ogg"),
    (b"ID3", "audio/mpeg"),
)
RIFF_KINDS = {b"WAVE": "audio/wav", b"WEBP": "image/webp", b"AVI ": "video/x-msvideo"}
CERTAIN = frozenset({"image/png", "image/jpeg", "image/gif", "image/webp", "audio/wav", "audio/flac"})
"""Types that nothing else begins like."""
HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Untaken:
    """A type of file that people bring and that is not taken, and a command that converts it."""

    name: str
    command: str


RAW = Untaken("a camera's raw file", RAW_COMMAND)
SVG = Untaken("an SVG drawing", "rsvg-convert FILE -o FILE.png")
JXL = Untaken("a JPEG XL picture", "djxl FILE FILE.png")
TIFF = Untaken("a TIFF of an unusual kind, such as colours in floating point", "magick FILE -depth 16 FILE.png")
UNTAKEN: tuple[tuple[bytes, Untaken], ...] = (
    (b"%PDF-", Untaken("a PDF document", "pdftoppm -png FILE PAGE")),
    (b"<svg", SVG),
    (b"<?xml", Untaken("an XML document", "rsvg-convert FILE -o FILE.png")),
    (b"<!--", Untaken("an XML document", "rsvg-convert FILE -o FILE.png")),
    (b"<!DOCTYPE svg", SVG),
    (b"<!DOCTYPE", Untaken("a web page", "curl --location --output FILE ADDRESS")),
    (b"<html", Untaken("a web page", "curl --location --output FILE ADDRESS")),
    (b"version https://git-lfs", Untaken("a pointer of Git LFS, not the file itself", "git lfs pull")),
    (b"MThd", Untaken("a MIDI score", "fluidsynth --fast-render FILE.wav SOUNDFONT FILE")),
    (b"#EXTM3U", Untaken("a playlist", "ffmpeg -i FILE FILE.mp4")),
    (b"8BPS", Untaken("a Photoshop document", "magick FILE[0] FILE.png")),
    (b"v/1\x01", Untaken("an OpenEXR picture", "magick FILE FILE.png")),
    (b"\xff\x0a", JXL),
    (b"\0\0\0\x0cJXL ", JXL),
    (b"FUJIFILMCCD-RAW", RAW),
    (b"IIRO", RAW),
    (b"IIRS", RAW),
    (b"MMOR", RAW),
    (b"IIU\0", RAW),
    (b"II*\0\x10\0\0\0CR", RAW),
    (b"II*\0", TIFF),
    (b"MM\0*", TIFF),
    (b"II+\0", TIFF),
    (b"MM\0+", TIFF),
    (b"\x1f\x8b", Untaken("a compressed file", "gunzip --stdout FILE > UNPACKED")),
    (b"PK\x03\x04", Untaken("a ZIP archive", "unzip FILE")),
)


def untaken(head: bytes) -> Untaken | None:
    """What a file is that is known and not taken, by its first `HEAD_BYTES`; to be asked when nothing decodes it."""
    if head[4:8] == b"ftyp" and head[8:12] in HEIC_BRANDS:
        return Untaken("an HEIC picture", "heif-convert FILE FILE.png")
    if head[4:11] == b"ftypcrx":
        return RAW
    text = head.removeprefix(BYTE_ORDER_MARK).lstrip()
    return next((kind for prefix, kind in UNTAKEN if head.startswith(prefix) or text.startswith(prefix)), None)


def conversion(mime_type: str, modality: int) -> str:
    """A command that makes a file of one type into one of another modality, or ""."""
    found = modality_of(mime_type)
    if modality == AUDIO and found == VIDEO:
        return "ffmpeg -i FILE -vn FILE.wav"
    if modality == IMAGE and found == VIDEO:
        return "ffmpeg -i FILE -frames:v 1 FILE.png"
    if modality == VIDEO and found == IMAGE:
        return "magick FILE FILE.mp4" if mime_type == "image/webp" else "ffmpeg -i FILE -pix_fmt yuv420p FILE.mp4"
    return ""


def modality_of(mime_type: str) -> int:
    """The modality of a MIME type."""
    return MODALITIES[mime_type.partition("/")[0]]


def canonical(mime_type: str) -> str:
    """A claimed MIME type without parameters, in its canonical spelling."""
    plain = mime_type.partition(";")[0].strip().lower()
    return ALIASES.get(plain, plain)


def sniff(head: bytes) -> str:
    """The MIME type that the first `HEAD_BYTES` of a file suggest, or ""."""
    for prefix, mime_type in PREFIXES:
        if head.startswith(prefix):
            return mime_type
    if head[:4] == b"RIFF":
        return RIFF_KINDS.get(head[8:12], "")
    if head[4:8] == b"ftyp":
        return "audio/mp4" if head[8:11] == b"M4A" else "video/mp4"
    if head[:4] == b"\x1aE\xdf\xa3":
        return "video/webm" if b"webm" in head else "video/x-matroska"
    return "audio/mpeg" if _is_mpeg_frame(head) else ""


def _is_mpeg_frame(head: bytes) -> bool:
    """Whether it begins with a valid MPEG audio frame header: sync word, layer 1-3, bit rate and sampling rate."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return False
    return head[1] & 0x06 != 0 and head[1] & 0x18 != 0x08 and head[2] & 0xF0 != 0xF0 and head[2] & 0x0C != 0x0C
