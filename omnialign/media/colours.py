"""Colours as models see them: sRGB, which is what their processors expect.

The ICC profile of a picture says which colours its numbers stand for. Without one they are sRGB, and inks are taken for
what is left of white. Numbers in a wider gamut that are read as sRGB look pale.
"""

import io
from functools import lru_cache

import numpy as np
from PIL import Image, ImageCms

WORKING_MODES = {"GRAY": "L", "RGB ": "RGB", "CMYK": "CMYK"}
"""The mode in which the pixels of a profile's colour space are converted."""
SAME_LEVELS = 1
"""Profiles of which nothing changes by more are sRGB under another name, and leave the pixels as they are."""
BROKEN = (ImageCms.PyCMSError, OSError, ValueError, TypeError)


def srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """An opaque picture in RGB, converted from the colours of `profile`.

    A profile that does not read, or is of another colour space than the pixels, is ignored, as browsers do.
    """
    space = _space(profile) if profile else ""
    grey_in_rgb = space == "RGB " and image.mode == "L"
    working = image.convert("RGB") if image.mode == "P" or grey_in_rgb else image
    transform = _transform(profile, space) if profile and WORKING_MODES.get(space) == working.mode else None
    if transform is None:
        return working.convert("RGB")
    converted = ImageCms.applyTransform(working, transform)
    return converted if converted is not None else working.convert("RGB")


@lru_cache(maxsize=64)
def _space(profile: bytes) -> str:
    try:
        return str(ImageCms.ImageCmsProfile(io.BytesIO(profile)).profile.xcolor_space)
    except BROKEN:
        return ""


@lru_cache(maxsize=16)
def _transform(profile: bytes, space: str) -> ImageCms.ImageCmsTransform | None:
    """The conversion of pixels in a colour space to sRGB; None where there is nothing to convert."""
    try:
        transform = ImageCms.buildTransform(
            ImageCms.ImageCmsProfile(io.BytesIO(profile)),
            ImageCms.createProfile("sRGB"),
            WORKING_MODES[space],
            "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
        probe = _probe(WORKING_MODES[space])
        found = ImageCms.applyTransform(probe, transform)
    except BROKEN:
        return None
    if found is None or (space != "CMYK" and _distance(found, probe.convert("RGB")) <= SAME_LEVELS):
        return None
    return transform


def _probe(mode: str) -> Image.Image:
    """Colours from all over a colour space."""
    steps = np.linspace(0, 255, 18).round().astype(np.uint8)
    grid = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(1, -1, 3)
    return Image.fromarray(grid).convert(mode)


def _distance(one: Image.Image, other: Image.Image) -> int:
    return int(np.abs(np.asarray(one).astype(int) - np.asarray(other)).max())
