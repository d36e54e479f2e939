"""Pictures as models see them: upright sRGB, 8 bits deep, on white where they are transparent.

White is the ground on which people look at drawings, charts and cut-out photographs; dropping the alpha channel instead
would show whatever colour hides below it, mostly black. Deeper pixels are scaled by the depth of the file, never by
their own range, so that equal greys stay equal across files.
"""

import io
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from omnialign.media.bounds import (
    MAX_DECODED_BYTES,
    MAX_JPEG_SCANS,
    MediaError,
    Pixels,
    Source,
    as_file,
    too_large,
    too_many,
)
from omnialign.media.colours import srgb
from omnialign.media.endings import lacks

FORMATS: dict[str, str] = {
    "PNG": "image/png", "JPEG": "image/jpeg", "MPO": "image/jpeg", "GIF": "image/gif", "WEBP": "image/webp",
    "TIFF": "image/tiff", "BMP": "image/bmp", "AVIF": "image/avif", "JPEG2000": "image/jp2",
    "PPM": "image/x-portable-anymap", "ICO": "image/vnd.microsoft.icon", "ICNS": "image/icns", "QOI": "image/qoi",
    "PCX": "image/vnd.zbrush.pcx", "SGI": "image/sgi", "DDS": "image/vnd-ms.dds", "TGA": "image/x-tga",
}  # fmt: skip
"""The formats that are taken, by Pillow's names, and their MIME types."""
WITHOUT_SIGNATURE = ("TGA",)
"""Formats that any bytes may happen to look like."""
SIGNED = tuple(name for name in FORMATS if name not in (*WITHOUT_SIGNATURE, "MPO"))  # Pillow opens an MPO as a JPEG
UNREADABLE = (
    UnidentifiedImageError, OSError, ValueError, SyntaxError, EOFError, KeyError, IndexError, TypeError,
    AttributeError, RuntimeError, OverflowError, struct.error,
)  # fmt: skip
"""What Pillow raises for files that do not decode."""
START_OF_SCAN = b"\xff\xda"
TIFF_BITS_PER_SAMPLE, TIFF_SAMPLE_FORMAT = 258, 339
TIFF_SIGNED = 2
TIFF_SUBFILE_TYPE, TIFF_OTHER_DIRECTORIES, DNG_VERSION = 254, 330, 50706
REDUCED_COPY = 1
GREY_MODES = ("1", "L", "LA")
RAW_COMMAND = "darktable-cli FILE FILE.png"


def mime_type(source: Source, *, signed: bool) -> str:
    """The type of a picture, or "" if it is none; of those formats that have a signature, or of those without."""
    try:
        with Image.open(as_file(source), formats=SIGNED if signed else WITHOUT_SIGNATURE) as image:
            return FORMATS[image.format or ""]
    except Image.DecompressionBombError:
        return "image/png"  # which one does not matter: opening it again refuses it
    except UNREADABLE:
        return ""


@contextmanager
def opened(source: Source) -> Iterator[Image.Image]:
    """Opens a picture without decoding its pixels. Raises MediaError, also for what its body raises."""
    try:
        file = as_file(source)
        with Image.open(file, formats=(*SIGNED, *WITHOUT_SIGNATURE)) as image:
            if (size_bytes := image.width * image.height * 3) > MAX_DECODED_BYTES:
                raise too_large(size_bytes, "scale the image down")
            _check_developed(image)
            if image.format in ("JPEG", "MPO"):
                _check_scans(source if isinstance(source, bytes) else _content(source))
            yield image
    except Image.DecompressionBombError as error:
        raise MediaError(f"The image is too large: {error}", reason="MEDIA_TOO_LARGE") from error
    except UNREADABLE as error:
        raise MediaError(f"The image does not decode: {error}.") from error


def _check_developed(image: Image.Image) -> None:
    """Raises MediaError for a TIFF that is a camera's raw file: what decodes of it is its thumbnail."""
    tags = getattr(image, "tag_v2", {}) if image.format == "TIFF" else {}
    is_thumbnail = tags.get(TIFF_SUBFILE_TYPE) == REDUCED_COPY and TIFF_OTHER_DIRECTORIES in tags
    if is_thumbnail or DNG_VERSION in tags:
        message = f"The media is a camera's raw file, which is not taken: convert it, for example with `{RAW_COMMAND}`."
        raise MediaError(message, reason="MEDIA_TYPE_UNSUPPORTED", metadata={"command": RAW_COMMAND})


def _content(file: BinaryIO) -> bytes:
    """The bytes of a file that is being read, which stays where it is."""
    place = file.tell()
    file.seek(0)
    data = file.read()
    file.seek(place)
    return data


def _check_scans(data: bytes) -> None:
    if (found := data.count(START_OF_SCAN)) > MAX_JPEG_SCANS:
        raise too_many("JPEG scans", found=found, limit=MAX_JPEG_SCANS, mend="save the picture again")


def rgb(image: Image.Image) -> Image.Image:
    """A decoded picture as models see it."""
    profile = image.info.get("icc_profile")
    upright = _eight_bits(_upright(image))
    if not upright.has_transparency_data:
        return srgb(upright, profile)
    layer = upright.convert("RGBA")
    colours = layer.convert("RGB")
    seen = srgb(colours.convert("L") if upright.mode in GREY_MODES else colours, profile)
    seen.putalpha(layer.getchannel("A"))
    ground = Image.new("RGBA", layer.size, "white")
    ground.alpha_composite(seen)
    return ground.convert("RGB")


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except UNREADABLE:  # broken metadata leave the pixels as they are
        return image


def _eight_bits(image: Image.Image) -> Image.Image:
    """A picture of 16 or 32 bits per pixel in 8, opaque or with an alpha channel; any other as it is."""
    if image.mode.startswith("I;16"):
        values = np.asarray(image).astype(np.uint32)
        grey = Image.fromarray(_scaled(values, 65535))
        if isinstance(key := image.info.get("transparency"), int):  # the one grey that stands for nothing
            grey.putalpha(Image.fromarray(np.where(values == key, 0, 255).astype(np.uint8)))
        return grey
    if image.mode == "I":
        return Image.fromarray(_scaled(*_integers(image)))
    if image.mode == "F":
        return Image.fromarray(_scaled(*_floats(np.asarray(image))))
    return image


def _integers(image: Image.Image) -> tuple[NDArray[np.int64], int]:
    """32-bit pixels, and the value of white. Only a TIFF is that deep: Pillow scales others to 16 bits."""
    values = np.asarray(image).astype(np.int64)
    tags = getattr(image, "tag_v2", {})
    bits = max(16, *tags.get(TIFF_BITS_PER_SAMPLE, (16,)))
    if TIFF_SIGNED in tags.get(TIFF_SAMPLE_FORMAT, ()):
        return values, (1 << (bits - 1)) - 1
    return values & ((1 << bits) - 1), (1 << bits) - 1


def _floats(values: NDArray[np.float32]) -> tuple[NDArray[np.float32], float]:
    """Floating-point pixels, and the value of white: 1, or 255 where that is how they are scaled."""
    low, high = float(values.min()), float(values.max())
    if not 0 <= low <= high <= 255:
        mend = "scale them, for example with `magick FILE -auto-level FILE.png`"
        raise ValueError(f"its pixels are numbers from {low:g} to {high:g}, and 0 to 1 or 0 to 255 are taken: {mend}")
    return values, 1.0 if high <= 1 else 255.0


def _scaled(values: NDArray[np.uint32] | NDArray[np.int64] | NDArray[np.float32], white: float) -> Pixels:
    return (np.clip(values / white, 0, 1) * 255).round().astype(np.uint8)


def read_image(data: bytes) -> Pixels:
    """Decodes an image to sRGB, upright, on white. Raises MediaError."""
    with opened(data) as image:
        image.load()
        if lost := lacks(data):
            raise MediaError(f"The image is cut off: {lost}.", reason="MEDIA_TRUNCATED")
        return np.asarray(rgb(image))


def write_image(pixels: Pixels) -> bytes:
    """Encodes RGB pixels as PNG, without loss."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()
