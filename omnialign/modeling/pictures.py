"""Decoding pictures under a policy."""

import io
import struct

import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from omnialign.media import MAX_DECODED_BYTES, MediaError, Pixels, too_large
from omnialign.modeling.policy import MediaPolicy


def read_picture(data: bytes, policy: MediaPolicy) -> tuple[Pixels, str]:
    """RGB pixels, upright and within the policy's bound, and what does not decode of them (empty for nothing).

    Raises MediaError when nothing decodes, or when it is too large.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            if policy.max_pixels:  # a JPEG decodes at a half, a quarter or an eighth of its size at less cost
                image.draft("RGB", policy.scaled(*image.size))
            if (size_bytes := image.width * image.height * 3) > MAX_DECODED_BYTES:
                raise too_large(size_bytes, "scale the image down")
            lost = _load(image)
            return _pixels(image, policy), lost
    except Image.DecompressionBombError as error:
        raise MediaError(f"The image is too large: {error}", reason="MEDIA_TOO_LARGE") from error
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, KeyError, IndexError, struct.error) as error:
        raise MediaError(f"The image does not decode: {error}.") from error


def _load(image: Image.Image) -> str:
    """Decodes the pixels; of a damaged file as many as there are. Raises OSError or SyntaxError when there are none."""
    try:
        image.load()
    except (OSError, SyntaxError, ValueError) as error:
        if not isinstance(image, ImageFile.ImageFile) or getattr(image, "_im", None) is None:
            raise
        image.tile = []  # what is decoded so far counts as all there is
        if image.getbbox() is None:  # not a pixel of it
            raise
        return f"the pixels break off ({error})"
    return ""


def _pixels(image: Image.Image, policy: MediaPolicy) -> Pixels:
    upright = ImageOps.exif_transpose(image).convert("RGB")
    size = policy.scaled(*upright.size)
    return np.asarray(upright if size == upright.size else upright.resize(size, Image.Resampling.BICUBIC))
