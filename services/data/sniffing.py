"""Telling a media file's type by its first bytes. What the bytes claim is proven by decoding, in `media`."""

from omnialign.v1 import content_pb2

HEAD_BYTES = 64

IMAGE, AUDIO, VIDEO = content_pb2.MODALITY_IMAGE, content_pb2.MODALITY_AUDIO, content_pb2.MODALITY_VIDEO
MODALITIES: dict[str, int] = {
    "image/png": IMAGE, "image/jpeg": IMAGE, "image/gif": IMAGE, "image/webp": IMAGE,
    "audio/wav": AUDIO, "audio/flac": AUDIO, "audio/mpeg": AUDIO, "audio/ogg": AUDIO, "audio/mp4": AUDIO,
    "video/mp4": VIDEO, "video/webm": VIDEO, "video/x-matroska": VIDEO, "video/x-msvideo": VIDEO,
}  # fmt: skip
# The decoder's own name of each container: it is never left to guess, since some of its formats read other files.
DEMUXERS: dict[str, str] = {
    "audio/wav": "wav", "audio/flac": "flac", "audio/mpeg": "mp3", "audio/ogg": "ogg", "audio/mp4": "mp4",
    "video/mp4": "mp4", "video/webm": "matroska", "video/x-matroska": "matroska", "video/x-msvideo": "avi",
}  # fmt: skip
ALIASES: dict[str, str] = {
    "image/jpg": "image/jpeg", "audio/x-wav": "audio/wav", "audio/wave": "audio/wav", "audio/vnd.wave": "audio/wav",
    "audio/x-flac": "audio/flac", "audio/mp3": "audio/mpeg", "application/ogg": "audio/ogg",
    "audio/x-m4a": "audio/mp4", "audio/m4a": "audio/mp4",
    "video/quicktime": "video/mp4", "video/avi": "video/x-msvideo",
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


def sniff(head: bytes) -> str:
    """The MIME type that the first `HEAD_BYTES` of a file show, or "" for none that is known."""
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


def canonical(mime_type: str) -> str:
    """A claimed MIME type without parameters and in its usual spelling."""
    plain = mime_type.partition(";")[0].strip().lower()
    return ALIASES.get(plain, plain)


def _is_mpeg_frame(head: bytes) -> bool:
    """Whether a valid MPEG audio frame header comes first: sync, layer 1-3, a bit rate and a sampling rate."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return False
    return head[1] & 0x06 != 0 and head[1] & 0x18 != 0x08 and head[2] & 0xF0 != 0xF0 and head[2] & 0x0C != 0x0C
