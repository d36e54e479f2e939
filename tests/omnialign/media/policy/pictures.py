"""Pictures of every line of docs/media.md."""

import io
import itertools
import struct
import zlib
from collections.abc import Callable
from typing import Any

import av
import numpy as np
from PIL import Image

from omnialign.modeling.decoding import DecodedMedia
from services.data.media_types import AUDIO
from tests.omnialign.media.policy.made import Files, Made
from tests.omnialign.media.profiles import display_p3, ink_in_srgb, inks, linear_grey, p3_in_srgb
from tests.omnialign.media.samples import usual_scheduling

COLOURS = ((200, 40, 40), (40, 180, 60), (40, 60, 200), (240, 230, 90))
"""Of the quarters of a picture: top left, top right, bottom left, bottom right."""
SCENE = np.asarray(COLOURS, np.uint8).reshape(2, 2, 3).repeat(16, axis=0).repeat(24, axis=1)
CENTRES = ((8, 12), (8, 36), (24, 12), (24, 36))
ORIENTATION = 0x0112
LOSSY = 12.0
DEEP = np.arange(64, dtype=np.uint16) * 1040
"""Greys of 16 bit, from black to nearly white."""


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


def scene(kind: str, mode: str = "RGB", **options: Any) -> bytes:
    return saved(Image.fromarray(SCENE).convert(mode), kind, **options)


def shows(colours: Any = COLOURS, within: float = LOSSY) -> Callable[[DecodedMedia], None]:
    """Checks the quarters of a picture of 48 by 32."""

    def check(found: DecodedMedia) -> None:
        assert found.array.shape == (32, 48, 3)
        seen = [found.array[place].astype(float) for place in CENTRES]
        assert np.abs(np.asarray(seen) - np.asarray(colours)).max() <= within, seen

    return check


def is_exactly(pixels: Any, within: float = 0.5) -> Callable[[DecodedMedia], None]:
    """Checks all pixels, against one colour or an array."""

    def check(found: DecodedMedia) -> None:
        assert np.abs(found.array.astype(float) - np.asarray(pixels)).max() <= within, found.array

    return check


def exact(kind: str, *modes: str, **options: Any) -> list[Made]:
    """The scene in modes that keep it, each pixel as Pillow has it in RGB."""
    found = [(scene(kind, mode, **options), Image.fromarray(SCENE).convert(mode).convert("RGB")) for mode in modes]
    return [Made(data, is_exactly(np.asarray(image))) for data, image in found]


def turned(kind: str, **options: Any) -> list[Made]:
    """The scene as a camera stores it in each of the eight orientations: all are shown upright."""
    undo = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # Image.Transpose, such that EXIF's turn undoes it
    made = []
    for number, method in undo.items():
        exif = Image.Exif()
        exif[ORIENTATION] = number
        upright = Image.fromarray(SCENE)
        held = upright if method is None else upright.transpose(Image.Transpose(method))
        made.append(Made(saved(held, kind, exif=exif, **options), shows()))
    return made


def animated(kind: str, **options: Any) -> Made:
    others = [Image.fromarray(np.roll(SCENE, 8 * step, axis=1)) for step in (1, 2)]
    data = saved(Image.fromarray(SCENE), kind, save_all=True, append_images=others, **options)
    return Made(data, shows(), "MEDIA_CUT")


def layer(mode: str = "RGBA") -> Image.Image:
    """The scene, of which the left half is transparent; below it lies black."""
    pixels = np.dstack([SCENE, np.full(SCENE.shape[:2], 255, np.uint8)])
    pixels[:, :24] = 0
    return Image.fromarray(pixels).convert(mode)


ON_WHITE = ((255, 255, 255), COLOURS[1], (255, 255, 255), COLOURS[3])


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(width: int, height: int, bits: int, colours: int, rows: bytes, *more: bytes) -> bytes:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colours, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(more) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def deep_png(colours: int) -> Made:
    channels = {0: 1, 2: 3, 4: 2, 6: 4}[colours]
    values = np.stack([DEEP] * channels, axis=-1)
    if channels in (2, 4):
        values[..., -1] = 65535
    seen = np.repeat(np.round(DEEP / 257)[None, :, None], 3, axis=2)
    return Made(png(64, 1, 16, colours, b"\0" + values.astype(">u2").tobytes()), is_exactly(seen, 1))


def tiff(values: np.ndarray, photometric: int, sample_format: int = 1, *more: tuple[int, int, int]) -> bytes:
    """A TIFF of one strip, little endian; `values` are `(height, width, samples)`, `more` tags, kinds and values."""
    height, width, samples = values.shape
    data, bits = values.tobytes(), 8 * values.itemsize
    tags = {256: (3, width), 257: (3, height), 259: (3, 1), 262: (3, photometric), 277: (3, samples),
            278: (3, height), 279: (4, len(data)), 339: (3, sample_format)}  # fmt: skip
    tags |= {tag: (kind, value) for tag, kind, value in more}
    behind = 8 + 2 + 12 * (len(tags) + 2) + 4
    tags[273] = (4, behind + 2 * samples)
    entries = [(tag, kind, 1, value) for tag, (kind, value) in tags.items()]
    entries.append((258, 3, samples, behind if samples > 2 else bits * (1 if samples == 1 else 65537)))
    body = b"".join(struct.pack("<HHII", *entry) for entry in sorted(entries))
    head = struct.pack("<2sHIH", b"II", 42, 8, len(entries))
    return head + body + bytes(4) + struct.pack("<H", bits) * samples + data


def one_colour(values: list[float], kind: str) -> np.ndarray:
    return np.full((4, 6, len(values)), values, kind)


def avif_of_ten_bits() -> bytes:
    buffer = io.BytesIO()
    with usual_scheduling(), av.open(buffer, "w", format="avif") as file:
        stream = file.add_stream("libsvtav1", rate=1, options={"crf": "1", "preset": "8"})
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p10le"
        frame = av.VideoFrame.from_ndarray(SCENE.repeat(2, axis=0).repeat(2, axis=1), format="rgb24")
        file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return buffer.getvalue()


def _ten_bits(found: DecodedMedia) -> None:
    shows()(DecodedMedia(found.modality, found.array[::2, ::2]))


def exif_kinds() -> list[Made]:
    return [*turned("JPEG", quality=95), *turned("PNG"), *turned("WEBP", lossless=True), *turned("TIFF")]


def inked() -> list[Made]:
    pictures = {"C": (255, 0, 0, 0), "MY": (0, 255, 255, 0), "": (0, 0, 0, 0)}
    return [
        Made(saved(Image.new("CMYK", (16, 16), ink), "JPEG", quality=100, icc_profile=inks()), is_exactly(seen, 3))
        for ink, seen in ((ink, ink_in_srgb(name)) for name, ink in pictures.items())
    ]


def wide() -> list[Made]:
    seen = [p3_in_srgb(colour) for colour in COLOURS]
    kinds: dict[str, dict[str, Any]] = {
        "JPEG": {"quality": 95}, "PNG": {}, "WEBP": {"lossless": True}, "TIFF": {}, "AVIF": {"quality": 95}
    }  # fmt: skip
    return [Made(scene(kind, icc_profile=display_p3(), **options), shows(seen)) for kind, options in kinds.items()]


def same_colours() -> list[Made]:
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return [Made(scene("PNG", icc_profile=one), is_exactly(SCENE)) for one in (profile, b"no profile", inks())]


def transparent_ink() -> list[Made]:
    grey = png(2, 1, 8, 0, b"\0\0\x80", chunk(b"tRNS", b"\0\0"))
    deep = png(2, 1, 16, 0, b"\0\0\0\x80\x80", chunk(b"tRNS", b"\0\0"))
    colours = png(2, 1, 8, 2, b"\0\0\0\0\x80\x80\x80", chunk(b"tRNS", bytes(6)))
    seen = is_exactly([[[255] * 3, [128] * 3]])
    palette = png(2, 1, 8, 3, b"\0\0\1", chunk(b"PLTE", bytes(3) + b"\x80" * 3), chunk(b"tRNS", b"\0"))
    return [Made(data, seen) for data in (grey, deep, colours, palette)]


def others() -> list[Made]:
    made = [made for kind in ("PPM", "TGA", "QOI", "PCX", "SGI", "DDS") for made in exact(kind, "RGB")]
    return [*made, Made(scene("ICO", sizes=[(48, 32)]), shows())]


TIFFS = (None, "tiff_lzw", "tiff_adobe_deflate", "packbits")

FILES: Files = {
    "JPEG, baseline and progressive": lambda: [
        Made(scene("JPEG", mode, quality=95, progressive=progressive))
        if mode == "L"
        else Made(scene("JPEG", mode, quality=95, progressive=progressive), shows())
        for mode, progressive in itertools.product(("L", "RGB"), (False, True))
    ],
    "JPEG with a sound or a video behind it, MPO": lambda: [
        Made(scene("JPEG", quality=95) + b"\0\0\0\x18ftypmp42" + b"\xff\xda" * 50, shows()),
        Made(scene("MPO", quality=95), shows()),
    ],
    "JPEG, CMYK": lambda: [Made(scene("JPEG", "CMYK", quality=95), shows())],
    "JPEG, CMYK with a profile": inked,
    "EXIF orientation, all eight, in JPEG, PNG, WebP and TIFF": exif_kinds,
    "ICC profile of a wide gamut (Display P3), in JPEG, PNG, WebP, TIFF and AVIF": wide,
    "ICC profile of greys": lambda: [
        Made(saved(Image.new("L", (8, 8), 55), "PNG", icc_profile=linear_grey()), is_exactly(128, 1))
    ],
    "ICC profile that is sRGB, is broken, or is of other inks": same_colours,
    "PNG, 8 bit and less: grey, colours, palette": lambda: exact("PNG", "1", "L", "P", "RGB"),
    "PNG, 16 bit": lambda: [deep_png(colours) for colours in (0, 2, 4, 6)],
    "PNG with an alpha channel": lambda: [
        Made(saved(layer(), "PNG"), shows(ON_WHITE)),
        Made(saved(Image.new("LA", (4, 4), (0, 128)), "PNG"), is_exactly(127)),
    ],
    "PNG with a colour that stands for nothing": transparent_ink,
    "PNG, animated (APNG)": lambda: [animated("PNG")],
    "WebP": lambda: [*exact("WEBP", "RGB", lossless=True), Made(scene("WEBP", quality=95), shows(within=24))],
    "WebP with an alpha channel": lambda: [Made(saved(layer(), "WEBP", lossless=True), shows(ON_WHITE))],
    "WebP, animated": lambda: [animated("WEBP", lossless=True)],
    "GIF": lambda: [Made(scene("GIF"), shows()), Made(saved(layer(), "GIF"), shows(ON_WHITE))],
    "GIF, animated": lambda: [animated("GIF")],
    "TIFF, 8 bit: grey, colours, palette, alpha; LZW, deflate, PackBits or none": lambda: [
        *(made for kind in TIFFS for made in exact("TIFF", "L", "RGB", "P", compression=kind)),
        Made(saved(layer(), "TIFF"), shows(ON_WHITE)),
    ],
    "TIFF, 16 bit: grey, colours, CMYK": lambda: [
        Made(tiff(DEEP.reshape(1, 64, 1), 1), is_exactly(np.round(DEEP / 257)[None, :, None])),
        Made(tiff(one_colour([40000, 20000, 65535], "<u2"), 2), is_exactly([156, 78, 255], 1)),
        Made(tiff(one_colour([0, 65535, 65535, 0], "<u2"), 5), is_exactly([255, 0, 0])),
    ],
    "TIFF, grey in floating point, from 0 to 1 or to 255": lambda: [
        Made(tiff(one_colour([0.5], "<f4"), 1, 3), is_exactly(128)),
        Made(tiff(one_colour([200], "<f4"), 1, 3), is_exactly(200)),
    ],
    "TIFF, grey in floating point, of another range": lambda: [Made(tiff(one_colour([-3], "<f4"), 1, 3))],
    "TIFF, colours in floating point, half or double precision, values of a sensor": lambda: [
        Made(tiff(one_colour([0.5, 0.2, 1], "<f4"), 2, 3)),
        Made(tiff(one_colour([0.5], "<f2"), 1, 3)),
        Made(tiff(one_colour([0.5], "<f8"), 1, 3)),
        Made(tiff(one_colour([40], "u1"), 32803)),
    ],
    "TIFF, CMYK": lambda: [Made(scene("TIFF", "CMYK"), shows())],
    "TIFF of several pages": lambda: [animated("TIFF")],
    "BMP": lambda: exact("BMP", "1", "L", "P", "RGB"),
    "AVIF": lambda: [
        Made(scene("AVIF", quality=95), shows()),
        Made(saved(layer(), "AVIF", quality=95), shows(ON_WHITE)),
    ],
    "AVIF, 10 bit": lambda: [Made(avif_of_ten_bits(), _ten_bits)],
    "AVIF, animated": lambda: [animated("AVIF", quality=95)],
    "JPEG 2000": lambda: exact("JPEG2000", "L", "RGB"),
    "PPM, TGA, ICO, QOI, PCX, SGI, DDS": others,
    "HEIC": lambda: [
        Made(struct.pack(">I4s4s", 24, b"ftyp", brand) + b"\0\0\0\0mif1heic" + b"\0\0\0\x08mdat")
        for brand in (b"heic", b"heix", b"mif1")
    ],
    "JPEG XL": lambda: [Made(b"\xff\x0a" + bytes(60)), Made(b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(60))],
    "SVG": lambda: [
        Made(start + b'<svg xmlns="http://www.w3.org/2000/svg"/>')
        for start in (b"", b"\xef\xbb\xbf", b" \n", b'<?xml version="1.0"?>', b"<!-- drawn by hand -->")
    ],
    "PSD": lambda: [Made(b"8BPS\0\1" + bytes(60))],
    "OpenEXR": lambda: [Made(b"v/1\x01" + bytes(60))],
    "RAW of cameras: DNG, CR2, CR3, NEF, ARW, RAF, ORF, RW2": lambda: [
        Made(tiff(one_colour([40, 20, 60], "u1"), 2, 1, (50706, 4, 0x00000401))),
        Made(tiff(one_colour([40, 20, 60], "u1"), 2, 1, (254, 4, 1), (330, 4, 8))),
        Made(b"II*\0\x10\0\0\0CR\2\0" + bytes(60)),
        Made(b"\0\0\0\x18ftypcrx \0\0\0\1crx isom" + bytes(60)),
        *(Made(head + bytes(60)) for head in (b"FUJIFILMCCD-RAW 0201", b"IIRO\x08\0\0\0", b"IIU\0\x18\0\0\0")),
    ],
    "PDF": lambda: [Made(b"%PDF-1.7\n" + bytes(60))],
    "Picture that is cut off": lambda: [
        *(Made(scene(kind)[:-1]) for kind in ("PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP")),
        Made(saved(Image.new("RGB", (1, 1)), "PNG")[:50]),
    ],
    "Picture that is claimed to be a sound": lambda: [Made(scene("PNG"), claim=AUDIO)],
}
