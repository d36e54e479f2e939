"""Pictures as models see them: on white where they are transparent, and scaled by their depth."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from omnialign.media import MediaError, read_image
from omnialign.media.bounds import MAX_JPEG_SCANS
from omnialign.media.pictures import START_OF_SCAN

RAMP = np.arange(64, dtype=np.uint16) * 1040  # 0 to 65520
INK = np.zeros((8, 8), dtype=np.uint8)
INK[3:5] = 255  # opaque where it is written


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


def black_ink(mode: str) -> Image.Image:
    image = Image.new("L" if mode == "LA" else "RGB", (8, 8))
    image.putalpha(Image.fromarray(INK))
    return image


@pytest.mark.parametrize(
    ("mode", "kind"),
    [("RGBA", "PNG"), ("LA", "PNG"), ("RGBA", "WEBP"), ("RGBA", "TIFF"), ("RGBA", "AVIF"), ("RGBA", "TGA")],
)
def test_black_ink_on_a_transparent_ground_stands_on_white(mode: str, kind: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {"quality": 100} if kind == "AVIF" else {}
    seen = read_image(saved(black_ink(mode), kind, **options)).astype(int)
    assert np.abs(seen - np.where(INK[..., None], 0, 255)).max() <= 2


def test_a_colour_that_stands_for_nothing_is_white() -> None:
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, 200, 10, 10])
    palette.putpixel((0, 0), 0)
    seen = read_image(saved(palette, "PNG", transparency=0))
    assert seen[0, 0].tolist() == [255, 255, 255]
    assert seen[1, 1].tolist() == [200, 10, 10]


def test_half_transparent_colours_are_mixed_with_white() -> None:
    assert read_image(saved(Image.new("RGBA", (2, 2), (0, 0, 0, 128)), "PNG"))[0, 0].tolist() == [127, 127, 127]


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_greys_are_scaled_and_not_clipped(kind: str) -> None:
    seen = read_image(saved(Image.fromarray(np.tile(RAMP, (4, 1))), kind))
    assert (seen[0, :, 0] == (RAMP / 257).round()).all()
    assert (seen[..., 0] == seen[..., 2]).all()


def test_a_16_bit_graymap_is_scaled_and_not_clipped() -> None:
    data = b"P5 64 1 65535\n" + RAMP.astype(">u2").tobytes()
    assert (read_image(data)[0, :, 0] == (RAMP / 257).round()).all()


def test_16_bit_colours_are_scaled_and_not_clipped() -> None:
    rows = b"\0" + np.stack([RAMP, RAMP[::-1], RAMP], axis=-1).astype(">u2").tobytes()

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", 64, 1, 16, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    assert np.abs(read_image(data)[0, :, 0].astype(int) - RAMP / 257).max() <= 1


@pytest.mark.parametrize(("top", "white"), [(1.0, 1.0), (200.0, 255.0)])
def test_floating_point_pixels_are_taken_from_0_to_1_or_to_255(top: float, white: float) -> None:
    values = np.linspace(0, top, 16, dtype=np.float32).reshape(4, 4)
    seen = read_image(saved(Image.fromarray(values), "TIFF"))
    assert np.abs(seen[..., 0] - values / white * 255).max() <= 0.5


def test_floating_point_pixels_of_an_unknown_scale_are_refused_with_their_range() -> None:
    values = np.linspace(-3, 900, 16, dtype=np.float32).reshape(4, 4)
    with pytest.raises(MediaError, match="-3 to 900"):
        read_image(saved(Image.fromarray(values), "TIFF"))


@pytest.mark.parametrize("kind", ["TIFF", "BMP", "PPM", "TGA", "JPEG2000", "AVIF", "ICO", "QOI", "PCX", "SGI"])
def test_every_format_shows_the_same_picture(kind: str) -> None:
    pixels = np.tile(np.repeat(np.linspace(10, 240, 16, dtype=np.uint8), 2)[:, None], (32, 1, 3))
    options = {"quality": 100} if kind == "AVIF" else {"sizes": [(32, 32)]} if kind == "ICO" else {}
    assert np.abs(read_image(saved(Image.fromarray(pixels), kind, **options)).astype(int) - pixels).max() <= 2


def test_a_jpeg_of_too_many_scans_is_refused_before_it_is_decoded() -> None:
    data = saved(Image.new("RGB", (64, 64)), "JPEG", progressive=True)
    assert read_image(data).shape == (64, 64, 3)
    with pytest.raises(MediaError, match="scans") as caught:
        read_image(data[:-2] + START_OF_SCAN * MAX_JPEG_SCANS + data[-2:])
    assert caught.value.reason == "MEDIA_TOO_LARGE"
