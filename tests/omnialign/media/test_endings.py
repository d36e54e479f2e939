"""Pictures that are cut off are never taken for whole."""

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from omnialign.errors import InvalidArgument
from omnialign.media import MediaError, read_image
from omnialign.media.endings import lacks
from omnialign.modeling.decoding import decode_here
from omnialign.modeling.inputs import NO_BOUNDS, MediaBytes, MediaPolicy
from services.data.config import DataConfig
from services.data.media_types import IMAGE
from services.data.media_validation import MediaLimits, validate
from tests.omnialign.media.policy.pictures import animated, saved, scene

LIMITS = MediaLimits.of(DataConfig(root=Path("unused")))
CUTS = 60
TYPED = ("MEDIA_TRUNCATED", "MEDIA_UNDECODABLE", "MEDIA_TYPE_UNSUPPORTED")
TGA_FOOTER_BYTES, TIFF_PADDING_BYTES = 26, 16
"""What may be missing: a TGA needs no footer, and a page need not be followed by the bytes that fill its last line."""


def tiny() -> bytes:
    return saved(Image.new("RGB", (1, 1)), "PNG")


PICTURES: dict[str, tuple[Callable[[], bytes], int]] = {
    "PNG": (lambda: scene("PNG"), 0),
    "PNG of 69 bytes": (tiny, 0),
    "PNG, palette": (lambda: scene("PNG", "P"), 0),
    "APNG": (lambda: animated("PNG").data, 0),
    "JPEG": (lambda: scene("JPEG"), 0),
    "JPEG, progressive": (lambda: scene("JPEG", progressive=True), 0),
    "JPEG, CMYK": (lambda: scene("JPEG", "CMYK"), 0),
    "MPO": (lambda: scene("MPO"), 0),
    "GIF": (lambda: scene("GIF"), 0),
    "GIF, animated": (lambda: animated("GIF").data, 0),
    "WebP": (lambda: scene("WEBP"), 0),
    "WebP, animated": (lambda: animated("WEBP").data, 0),
    "TIFF": (lambda: scene("TIFF"), 0),
    "TIFF, LZW": (lambda: scene("TIFF", compression="tiff_lzw"), 0),
    "TIFF, PackBits": (lambda: scene("TIFF", "L", compression="packbits"), 0),
    "TIFF of several pages": (lambda: animated("TIFF").data, TIFF_PADDING_BYTES),
    "BMP": (lambda: scene("BMP"), 0),
    "AVIF": (lambda: scene("AVIF"), 0),
    "AVIF, animated": (lambda: animated("AVIF").data, 0),
    "JPEG 2000": (lambda: scene("JPEG2000"), 0),
    "PPM": (lambda: scene("PPM"), 0),
    "TGA": (lambda: scene("TGA"), TGA_FOOTER_BYTES),
    "ICO": (lambda: scene("ICO"), 0),
    "QOI": (lambda: scene("QOI"), 0),
    "PCX, palette": (lambda: scene("PCX", "P"), 0),
    "SGI": (lambda: scene("SGI"), 0),
    "DDS": (lambda: scene("DDS"), 0),
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_is_refused_wherever_it_is_cut_and_taken_whole(name: str, tmp_path: Path) -> None:
    make, spare = PICTURES[name]
    data, path, taken = make(), tmp_path / "picture", list[int]()
    path.write_bytes(data)
    validate(path, LIMITS, IMAGE)
    last = len(data) - spare
    for size in sorted({*range(1, last, max(1, last // CUTS)), *range(max(1, last - 12), last)}):
        path.write_bytes(data[:size])
        try:
            validate(path, LIMITS)
            taken.append(size)
        except InvalidArgument as error:
            assert error.reason in TYPED
    assert not taken


READ_TO_THE_END = ("QOI", "PCX, palette", "DDS", "JPEG 2000")


@pytest.mark.parametrize("name", [name for name in PICTURES if name not in READ_TO_THE_END])
def test_bytes_behind_a_picture_are_no_fault(name: str, tmp_path: Path) -> None:
    path = tmp_path / "picture"
    path.write_bytes(PICTURES[name][0]() + b"\0\0\0\x18ftypmp42\xff\xda" + bytes(40))
    assert validate(path, LIMITS).startswith("image/")


def test_a_picture_of_which_only_the_ending_is_missing_is_damaged_and_used_only_if_the_policy_says_so() -> None:
    data = tiny()[:50]
    assert "50 bytes" in lacks(data)
    with pytest.raises(MediaError) as caught:
        read_image(data)
    assert caught.value.reason == "MEDIA_TRUNCATED"
    with pytest.raises(MediaError) as caught:
        decode_here(MediaBytes(IMAGE, data), NO_BOUNDS)
    assert caught.value.reason == "MEDIA_DAMAGED"
    loss = decode_here(MediaBytes(IMAGE, data), MediaPolicy(use_damaged=True)).loss
    assert loss is not None
    assert loss.reason == "MEDIA_DAMAGED"
