"""Validating media: the type is read from the first bytes, then the whole file is decoded, within limits.

Sizes are read from the header first, so that a decompression bomb is refused before anything is unpacked. Memory is
bounded whatever the file. Callers run `validate` in a child process, since a decoder may crash or never end.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
import av.error
from PIL import Image, UnidentifiedImageError

from omnialign.errors import InvalidArgument
from omnialign.media import MediaError
from omnialign.modeling.decoding import decode
from omnialign.modeling.inputs import MediaBytes, MediaPolicy
from omnialign.v1 import content_pb2

if TYPE_CHECKING:
    from services.data.config import DataConfig  # imports the database, which a child process does not need

# A decoder may drop a frame at either end; if less than this share decodes, the file is cut off.
COMPLETE_SHARE = 0.95
STREAMED_WAV_SIZES = (0, 0xFFFFFFFF)
BEGINNING = MediaPolicy(max_frames=1, max_audio_seconds=1.0, use_damaged=True)


@dataclass(frozen=True)
class MediaLimits:
    """The largest media that is accepted."""

    size_bytes: int
    image_pixels: int
    seconds: float
    frames: int
    frame_pixels: int
    accept_damaged: bool = False

    @classmethod
    def of(cls, config: "DataConfig") -> "MediaLimits":
        """The limits in the settings."""
        return cls(
            config.max_media_bytes,
            config.max_image_pixels,
            config.max_media_seconds,
            config.max_video_frames,
            config.max_frame_pixels,
            config.accept_damaged_media,
        )


def refusal(reason: str, message: str, **metadata: object) -> InvalidArgument:
    """The error for media that is not accepted."""
    return InvalidArgument(message, reason=reason, metadata={key: str(value) for key, value in metadata.items()})


def too_large(what: str, *, found: float, limit: float) -> InvalidArgument:
    """The error for media above a limit."""
    message = f"The media is too large: it has {found:g} {what}, and {limit:g} are allowed."
    return refusal("MEDIA_TOO_LARGE", message, what=what, found=f"{found:g}", limit=f"{limit:g}")


def identify(head: bytes, *, modality: int = 0, mime_type: str = "") -> str:
    """The MIME type of a file that begins with `head`. Raises MEDIA_EMPTY, MEDIA_UNDECODABLE, MEDIA_TYPE_MISMATCH."""
    if not head:
        raise refusal("MEDIA_EMPTY", "The media is empty.")
    found = sniff(head)
    if not found:
        raise refusal("MEDIA_UNDECODABLE", "The bytes are not an image, audio or video of a supported type.")
    if mime_type and canonical(mime_type) != found:
        raise _mismatch(mime_type, found)
    if modality and modality != MODALITIES[found]:
        raise _mismatch(content_pb2.Modality.Name(content_pb2.Modality.ValueType(modality)), found)
    return found


def validate(path: Path, mime_type: str, limits: MediaLimits) -> None:
    """Decodes the whole file. Raises MEDIA_UNDECODABLE, MEDIA_TRUNCATED or MEDIA_TOO_LARGE.

    If damaged files are accepted, it is enough that the first frame or the first second decodes.
    """
    checks: dict[int, Callable[[Path, str, MediaLimits], None]] = {
        IMAGE: _validate_image,
        AUDIO: _validate_audio,
        VIDEO: _validate_video,
    }
    try:
        checks[MODALITIES[mime_type]](path, mime_type, limits)
    except InvalidArgument as error:
        if not limits.accept_damaged or error.reason not in ("MEDIA_UNDECODABLE", "MEDIA_TRUNCATED"):
            raise
        if not _decodes_in_part(path, MODALITIES[mime_type]):
            raise


def _decodes_in_part(path: Path, modality: int) -> bool:
    try:
        decode(MediaBytes(modality, path.read_bytes()), BEGINNING)
    except MediaError:
        return False
    return True


def _mismatch(claimed: str, found: str) -> InvalidArgument:
    message = f"The media claims to be {claimed}, but its bytes are {found}."
    return refusal("MEDIA_TYPE_MISMATCH", message, claimed=claimed, found=found)


def _validate_image(path: Path, mime_type: str, limits: MediaLimits) -> None:
    del mime_type
    try:
        with Image.open(path, formats=("PNG", "JPEG", "GIF", "WEBP")) as image:
            _decode_frames(image, limits)
    except Image.DecompressionBombError as error:
        raise too_large("pixels", found=limits.image_pixels + 1, limit=limits.image_pixels) from error
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, EOFError, KeyError, IndexError) as error:
        reason = "MEDIA_TRUNCATED" if "truncated" in str(error).lower() else "MEDIA_UNDECODABLE"
        raise refusal(reason, f"The image does not decode: {error}.") from error


def _decode_frames(image: Image.Image, limits: MediaLimits) -> None:
    """Decodes frame by frame: an animation is as large as all its frames together."""
    index, pixels = 0, 0
    while True:
        pixels += image.width * image.height
        if pixels > limits.image_pixels:
            raise too_large("pixels", found=pixels, limit=limits.image_pixels)
        image.load()
        index += 1
        if index >= getattr(image, "n_frames", 1):
            return
        if index >= limits.frames:
            raise too_large("frames", found=index + 1, limit=limits.frames)
        image.seek(index)


def _validate_audio(path: Path, mime_type: str, limits: MediaLimits) -> None:
    if mime_type == "audio/wav":
        _check_wav_length(path)
    with _opened(path, mime_type) as container:
        stream = _stream(container.streams.audio, "audio")
        expected = _header_seconds(container, stream)
        _check_seconds(expected, limits)
        seconds = 0.0
        for frame in container.decode(stream):
            seconds += frame.samples / max(1, frame.sample_rate)
            _check_seconds(seconds, limits)
        _check_complete(seconds, expected - 0.1, "seconds")


def _validate_video(path: Path, mime_type: str, limits: MediaLimits) -> None:
    with _opened(path, mime_type) as container:
        stream = _stream(container.streams.video, "video")
        stream.thread_type = "NONE"  # frame threads would multiply the memory by their number
        _check_seconds(_header_seconds(container, stream), limits)
        _check_frame(stream.codec_context.width, stream.codec_context.height, limits)
        _check_count(stream.frames, limits)
        frames = 0
        for frame in container.decode(stream):
            frames += 1
            _check_count(frames, limits)
            _check_frame(frame.width, frame.height, limits)
        _check_complete(frames, stream.frames, "frames")


class _opened:  # noqa: N801 - reads as a context manager function, which could not catch errors of its body as simply
    """Opens a container of a known type and turns the decoder's errors into MEDIA_UNDECODABLE."""

    def __init__(self, path: Path, mime_type: str) -> None:
        self._path, self._format = path, DEMUXERS[mime_type]
        self._container: Any = None

    def __enter__(self) -> Any:
        try:
            self._container = av.open(str(self._path), format=self._format, metadata_errors="replace")
        except (av.error.FFmpegError, ValueError) as error:
            raise refusal("MEDIA_UNDECODABLE", f"The media does not decode: {error.__class__.__name__}.") from error
        return self._container

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if self._container is not None:
            self._container.close()
        if isinstance(error, av.error.FFmpegError | ValueError | IndexError):
            raise refusal("MEDIA_UNDECODABLE", f"The media does not decode: {error.__class__.__name__}.") from error


def _stream(streams: Any, what: str) -> Any:
    if not streams:
        raise refusal("MEDIA_UNDECODABLE", f"The file has no {what} stream.")
    return streams[0]


def _header_seconds(container: Any, stream: Any) -> float:
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    return float(container.duration or 0) / av.time_base


def _check_seconds(seconds: float, limits: MediaLimits) -> None:
    if seconds > limits.seconds:
        raise too_large("seconds", found=seconds, limit=limits.seconds)


def _check_frame(width: int, height: int, limits: MediaLimits) -> None:
    if width * height > limits.frame_pixels:
        raise too_large("pixels", found=width * height, limit=limits.frame_pixels)


def _check_count(frames: int, limits: MediaLimits) -> None:
    if frames > limits.frames:
        raise too_large("frames", found=frames, limit=limits.frames)


def _check_complete(found: float, expected: float, what: str) -> None:
    if not found:
        raise refusal("MEDIA_UNDECODABLE", f"None of the media's {what} decode.")
    if found < expected * COMPLETE_SHARE:
        message = f"The media is cut off: {found:g} of {expected:g} {what} decode."
        raise refusal("MEDIA_TRUNCATED", message, found=f"{found:g}", expected=f"{expected:g}")


def _check_wav_length(path: Path) -> None:
    """Compares the length in the header: the decoder takes a WAV that ends early for complete."""
    with path.open("rb") as file:
        claimed = int.from_bytes(file.read(8)[4:8], "little")
    found = path.stat().st_size - 8
    if claimed not in STREAMED_WAV_SIZES and found < claimed - 1:
        message = f"The WAV file is cut off: it has {found} of {claimed} bytes."
        raise refusal("MEDIA_TRUNCATED", message, found=found, expected=claimed)


HEAD_BYTES = 64

IMAGE, AUDIO, VIDEO = content_pb2.MODALITY_IMAGE, content_pb2.MODALITY_AUDIO, content_pb2.MODALITY_VIDEO
MODALITIES: dict[str, int] = {
    "image/png": IMAGE, "image/jpeg": IMAGE, "image/gif": IMAGE, "image/webp": IMAGE,
    "audio/wav": AUDIO, "audio/flac": AUDIO, "audio/mpeg": AUDIO, "audio/ogg": AUDIO, "audio/mp4": AUDIO,
    "video/mp4": VIDEO, "video/webm": VIDEO, "video/x-matroska": VIDEO, "video/x-msvideo": VIDEO,
}  # fmt: skip
# FFmpeg's name of each container. It never guesses: some of its formats (playlists) read other files and addresses.
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
    """The MIME type by the first `HEAD_BYTES` of a file, or "" if it is not a known one."""
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
    """A claimed MIME type without parameters, in its canonical spelling."""
    plain = mime_type.partition(";")[0].strip().lower()
    return ALIASES.get(plain, plain)


def _is_mpeg_frame(head: bytes) -> bool:
    """Whether it begins with a valid MPEG audio frame header: sync word, layer 1-3, bit rate and sampling rate."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return False
    return head[1] & 0x06 != 0 and head[1] & 0x18 != 0x08 and head[2] & 0xF0 != 0xF0 and head[2] & 0x0C != 0x0C
