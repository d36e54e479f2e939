"""The arrays that media become, the error of a file that does not, and bounds that are checked before decoding.

The bounds hold for everybody. Stricter limits belong to whoever accepts files from outside (the data service).
"""

import io
from collections.abc import Mapping
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from omnialign.errors import InvalidArgument

Pixels = NDArray[np.uint8]
Samples = NDArray[np.float32]
Source = bytes | BinaryIO
"""A media file: its bytes, or an open file."""

MIME_TYPES = {"image": "image/png", "audio": "audio/wav", "video": "video/mp4"}
MAX_DECODED_BYTES = 1 << 30
"""Most bytes that one medium may take once decoded under a policy, whatever the policy says."""
MAX_CHANNELS = 64
"""Most channels of a sound: as many as the resampler takes."""
MAX_JPEG_SCANS = 100
"""Most scans of a JPEG. Encoders write about ten; each costs a pass over the whole picture, however few its bytes."""


class MediaError(InvalidArgument):
    """The bytes do not decode as the media they claim to be."""

    def __init__(
        self, message: str, *, reason: str = "MEDIA_UNDECODABLE", metadata: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message, reason=reason, metadata=metadata)


def too_large(found_bytes: int, mend: str) -> MediaError:
    """The error for a medium that would fill the memory."""
    message = f"Decoded, the medium takes {found_bytes} bytes, and {MAX_DECODED_BYTES} are allowed: {mend}."
    metadata = {"found_bytes": str(found_bytes), "limit_bytes": str(MAX_DECODED_BYTES)}
    return MediaError(message, reason="MEDIA_TOO_LARGE", metadata=metadata)


def too_many(what: str, *, found: int, limit: int, mend: str) -> MediaError:
    """The error for a medium with more of something than can be decoded at a reasonable cost."""
    message = f"The medium has {found} {what}, and {limit} are allowed: {mend}."
    return MediaError(
        message, reason="MEDIA_TOO_LARGE", metadata={"what": what, "found": str(found), "limit": str(limit)}
    )


def as_file(source: Source) -> BinaryIO:
    """The source as a file, at its beginning."""
    file = io.BytesIO(source) if isinstance(source, bytes | bytearray | memoryview) else source
    file.seek(0)
    return file


def size_bytes(file: BinaryIO) -> int:
    """The size of a file, which is left at its beginning."""
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    return size
