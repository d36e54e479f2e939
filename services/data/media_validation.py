"""Validating media: the type is what decodes, and the whole file is decoded, within limits.

The rule is that of the models (`omnialign.modeling.streams`, `omnialign.media`): what is accepted here can be used
there. Sizes are read from the header first, so that a decompression bomb is refused before anything is unpacked.
Everything here blocks, and reads bytes that cannot be trusted: callers run it in the sandbox.
"""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from omnialign.errors import InvalidArgument
from omnialign.media import MediaError, containers, endings, headers, pictures
from omnialign.modeling import streams
from omnialign.modeling.decoding import decode_here
from omnialign.modeling.inputs import MediaBytes, MediaPolicy
from omnialign.v1 import content_pb2
from services.data.media_types import (
    AUDIO,
    CERTAIN,
    HEAD_BYTES,
    IMAGE,
    VIDEO,
    canonical,
    conversion,
    modality_of,
    sniff,
    untaken,
)

if TYPE_CHECKING:
    from services.data.config import DataConfig  # imports the database, which a child process does not need

BEGINNING = MediaPolicy(max_frames=1, max_audio_seconds=1.0, use_damaged=True)
TAKEN = "PNG, JPEG, GIF, WebP, TIFF, BMP, AVIF, WAV, FLAC, MP3, Ogg, MP4, WebM, Matroska, AVI and others"
PLAIN_MODES = ("RGB", "RGBA", "L", "P")
"""Pixels that models can always be shown."""


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


def validate(path: Path, limits: MediaLimits, modality: int = 0, mime_type: str = "") -> str:
    """Decodes the whole file, and returns its MIME type, which must be as claimed.

    Raises MEDIA_EMPTY, MEDIA_UNDECODABLE, MEDIA_TYPE_UNSUPPORTED, MEDIA_TYPE_MISMATCH, MEDIA_TRUNCATED or
    MEDIA_TOO_LARGE. If damaged files are accepted, it is enough that the first frame or the first second decodes.
    """
    with path.open("rb") as file:
        return _validate(file, limits, modality, mime_type)


def validate_bytes(file: BinaryIO, limits: MediaLimits, modality: int = 0) -> str:
    """`validate` for bytes in memory."""
    return _validate(file, limits, modality)


def validate_together(media: Sequence[tuple[NDArray[np.uint8], int]], limits: MediaLimits) -> list[str]:
    """The MIME types of media, given as bytes and claimed modality; "" for those that `validate` would refuse."""
    return [_type_or_nothing(data, limits, modality) for data, modality in media]


def type_of_picture(data: bytes, limits: MediaLimits) -> str:
    """The type of a picture that begins as no other type does, and decodes; "" for all else."""
    try:
        return _plain_picture(io.BytesIO(data), limits)
    except MemoryError:
        raise
    except Exception:  # why it is refused, `validate` says
        return ""


def _type_or_nothing(data: NDArray[np.uint8], limits: MediaLimits, modality: int) -> str:
    try:
        return _validate(io.BytesIO(data.tobytes()), limits, modality)
    except MemoryError:
        raise
    except Exception:  # why it is refused, `validate` says
        return ""


def _validate(file: BinaryIO, limits: MediaLimits, modality: int = 0, mime_type: str = "") -> str:
    if found := _plain_picture(file, limits):
        check_claim(found, modality=modality, mime_type=mime_type)
        return found
    found = identify(file, modality=modality, mime_type=mime_type)
    try:
        CHECKS[modality_of(found)](file, limits)
    except InvalidArgument as error:
        if not limits.accept_damaged or error.reason not in ("MEDIA_UNDECODABLE", "MEDIA_TRUNCATED"):
            raise
        if not _decodes_in_part(file, modality_of(found)):
            raise
    return found


def _plain_picture(file: BinaryIO, limits: MediaLimits) -> str:
    """The type of a picture that begins as no other type does, and decodes; "" for all else, to be looked at closer.

    It is opened once, which costs half as much as decoding a small one.
    """
    suggested = sniff(_head(file))
    if suggested not in CERTAIN or modality_of(suggested) != IMAGE:
        return ""
    try:
        _check_image(file, limits, mime_type=suggested)
    except InvalidArgument:
        return ""
    return suggested


def identify(file: BinaryIO, *, modality: int = 0, mime_type: str = "") -> str:
    """The MIME type of a file by what is in it.

    Raises MEDIA_EMPTY, MEDIA_UNDECODABLE, MEDIA_TYPE_UNSUPPORTED, MEDIA_TYPE_MISMATCH.
    """
    head = _head(file)
    if not head:
        raise refusal("MEDIA_EMPTY", "The media is empty.")
    found = pictures.mime_type(file, signed=True)
    if not found:
        _check_ending(file)
    if not found and (other := untaken(head)):
        message = f"The media is {other.name}, which is not taken: convert it, for example with `{other.command}`."
        raise refusal("MEDIA_TYPE_UNSUPPORTED", message, found=other.name, command=other.command)
    found = found or containers.mime_type(file) or pictures.mime_type(file, signed=False)
    if not found and headers.lacks_index(file):
        message = (
            "The video is cut off: the index that belongs at its end is missing; copy it again from where it came."
        )
        raise refusal("MEDIA_TRUNCATED", message, found="no index")
    if not found:
        message = (
            f"The bytes, which begin with {head[:8]!r}, are no image, audio or video that decodes: {TAKEN} are taken."
        )
        raise refusal("MEDIA_UNDECODABLE", message, begins_with=head[:8].hex())
    check_claim(found, modality=modality, mime_type=mime_type)
    return found


def check_claim(found: str, *, modality: int, mime_type: str) -> None:
    """Raises MEDIA_TYPE_MISMATCH if a file of the type `found` is not what it is claimed to be."""
    if mime_type and canonical(mime_type) != found:
        raise _mismatch(mime_type, found)
    if modality and modality != modality_of(found):
        claimed = content_pb2.Modality.Name(content_pb2.Modality.ValueType(modality)).removeprefix("MODALITY_")
        raise _mismatch(claimed.lower(), found, conversion(found, modality))


def _head(file: BinaryIO) -> bytes:
    file.seek(0)
    return file.read(HEAD_BYTES)


def _decodes_in_part(file: BinaryIO, modality: int) -> bool:
    file.seek(0)
    try:
        decode_here(MediaBytes(modality, file.read()), BEGINNING)
    except MediaError:
        return False
    return True


def _mismatch(claimed: str, found: str, command: str = "") -> InvalidArgument:
    mend = f": convert it, for example with `{command}`" if command else ""
    message = f"The media claims to be {claimed}, but its bytes are {found}{mend}."
    return refusal("MEDIA_TYPE_MISMATCH", message, claimed=claimed, found=found)


def _check_ending(file: BinaryIO) -> None:
    if lost := endings.lacks(file):
        message = f"The picture is cut off: {lost}; copy it again from where it came."
        raise refusal("MEDIA_TRUNCATED", message, found=lost)


def _check_image(file: BinaryIO, limits: MediaLimits, mime_type: str = "") -> None:
    """Decodes a picture, which must be of the type if one is given."""
    _check_ending(file)
    try:
        with pictures.opened(file) as image:
            if mime_type and pictures.FORMATS.get(image.format or "") != mime_type:
                raise _mismatch(mime_type, str(image.format))
            _decode_frames(image, limits)
            if image.mode not in PLAIN_MODES:
                pictures.rgb(image)
    except MediaError as error:
        if "truncated" in error.message.lower():
            raise refusal("MEDIA_TRUNCATED", error.message) from error
        if error.reason != "MEDIA_TOO_LARGE" or error.metadata:
            raise
        raise too_large("pixels", found=limits.image_pixels + 1, limit=limits.image_pixels) from error


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


def _check_audio(file: BinaryIO, limits: MediaLimits) -> None:
    with containers.opened(file) as opened:
        _check_seconds(opened.stated_seconds(opened.stream("audio")), limits)
    _check_whole(streams.check_sound(file, lambda seconds: _check_seconds(seconds, limits)))


def _check_video(file: BinaryIO, limits: MediaLimits) -> None:
    with containers.opened(file) as opened:
        stream = opened.stream("video")
        _check_seconds(opened.stated_seconds(stream), limits)
        _check_frame(stream.codec_context.width, stream.codec_context.height, limits)
        _check_count(stream.frames, limits)
    count = 0

    def look(frame: Any) -> None:
        nonlocal count
        count += 1
        _check_count(count, limits)
        _check_frame(frame.width, frame.height, limits)

    _check_whole(streams.check_frames(file, look))


CHECKS: dict[int, Callable[[BinaryIO, MediaLimits], None]] = {
    IMAGE: _check_image,
    AUDIO: _check_audio,
    VIDEO: _check_video,
}


def _check_seconds(seconds: float, limits: MediaLimits) -> None:
    if seconds > limits.seconds:
        raise too_large("seconds", found=seconds, limit=limits.seconds)


def _check_frame(width: int, height: int, limits: MediaLimits) -> None:
    if width * height > limits.frame_pixels:
        raise too_large("pixels", found=width * height, limit=limits.frame_pixels)


def _check_count(frames: int, limits: MediaLimits) -> None:
    if frames > limits.frames:
        raise too_large("frames", found=frames, limit=limits.frames)


def _check_whole(lost: str) -> None:
    if lost:
        raise refusal("MEDIA_TRUNCATED", f"The media is cut off or damaged: {lost}.", found=lost)
