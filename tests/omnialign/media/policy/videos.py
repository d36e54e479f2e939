"""Videos of every line of docs/media.md."""

import io
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.video.reformatter import ColorPrimaries, Colorspace, ColorTrc

from omnialign.modeling.decoding import DecodedMedia
from omnialign.modeling.inputs import MediaPolicy
from services.data.media_types import AUDIO, IMAGE, VIDEO
from tests.omnialign.media.policy.made import Files, Made
from tests.omnialign.media.policy.pictures import COLOURS, LOSSY, SCENE, scene
from tests.omnialign.media.samples import usual_scheduling

RATE = 10
SIZE = (96, 64)
WIDE = SCENE.repeat(2, axis=0).repeat(2, axis=1)
"""The scene in the size of a video."""
GREYS = (40, 80, 120, 160, 200, 240)


@dataclass(frozen=True)
class Video:
    """How frames are written: the scene, or plain greys."""

    container: str = "mp4"
    codec: str = "libx264"
    pixels: str = "yuv420p"
    options: dict[str, str] = field(default_factory=dict)
    codec_options: dict[str, str] = field(default_factory=dict)
    described: dict[str, int] = field(default_factory=dict)
    """What the file says of its colours."""
    matrix: Colorspace = Colorspace.DEFAULT

    def write(self, frames: Sequence[Any], times: Sequence[float] = ()) -> bytes:
        buffer = io.BytesIO()
        with usual_scheduling(), av.open(buffer, "w", format=self.container, options=self.options) as file:
            stream = file.add_stream(self.codec, rate=RATE, options=self.codec_options)
            stream.height, stream.width = frames[0].shape[:2]
            stream.pix_fmt = self.pixels
            if times:
                stream.codec_context.time_base = Fraction(1, 1000)
            for name, value in self.described.items():
                setattr(stream.codec_context, name, value)
            for index, pixels in enumerate(frames):
                kind = {1: "rgb24", 2: "rgb48le"}[pixels.itemsize] if pixels.shape[2] == 3 else "rgba"
                frame = av.VideoFrame.from_ndarray(pixels, format=kind)
                if self.matrix != Colorspace.DEFAULT:
                    frame = frame.reformat(format=self.pixels, dst_colorspace=self.matrix)
                frame.pts = round(times[index] * 1000) if times else index
                frame.time_base = Fraction(1, 1000) if times else Fraction(1, RATE)
                file.mux(stream.encode(frame))
            file.mux(stream.encode(None))
        return buffer.getvalue()

    def made(self, count: int = 3, **options: Any) -> Made:
        return Made(self.write([WIDE] * count), shows(count=count, **options))


def shows(
    colours: Any = COLOURS, count: int = 3, within: float = LOSSY, shape: tuple[int, int] = (64, 96)
) -> Callable[[DecodedMedia], None]:
    """Checks the number and the times of frames, and the quarters of the last one."""

    def check(found: DecodedMedia) -> None:
        assert found.array.shape == (count, *shape, 3)
        assert np.abs(np.asarray(found.times_seconds) - np.arange(count) / RATE).max() <= 0.01, found.times_seconds
        height, width = shape
        places = [(y, x) for y in (height // 4, height * 3 // 4) for x in (width // 4, width * 3 // 4)]
        seen = [found.array[-1][place].astype(float) for place in places]
        assert np.abs(np.asarray(seen) - np.asarray(colours)).max() <= within, seen

    return check


def greys(values: Sequence[int] = GREYS) -> list[np.ndarray]:
    return [np.full((64, 96, 3), value, np.uint8) for value in values]


def has_greys(values: Sequence[int], times: Sequence[float]) -> Callable[[DecodedMedia], None]:
    """Checks which frames there are, and when."""

    def check(found: DecodedMedia) -> None:
        assert np.abs(found.array[:, 32, 48, 0].astype(float) - values).max() <= 6, found.array[:, 32, 48, 0]
        assert np.abs(np.asarray(found.times_seconds) - times).max() <= 0.01, found.times_seconds

    return check


def even_times(count: int, step: float = 1 / RATE) -> list[float]:
    return [index * step for index in range(count)]


def ordered() -> Made:
    """Frames that depend on later ones."""
    data = Video(codec_options={"bf": "3", "b_strategy": "0", "g": "12"}).write(greys())
    with av.open(io.BytesIO(data)) as file:
        assert any(one.dts != one.pts for one in file.demux(video=0) if one.size)
    return Made(data, has_greys(GREYS, even_times(6)))


def edited() -> Made:
    """A file that holds eight frames, of which its edit list leaves out the first two."""
    written = Video(codec="mpeg4", options={"use_editlist": "1"}, codec_options={"g": "4"})
    data = written.write(greys((0, 20, *GREYS)), times=[(index - 2) / RATE for index in range(8)])
    return Made(data, has_greys(GREYS, even_times(6)))


UNEVEN = (0.0, 0.1, 0.2, 1.0, 1.1, 2.0)


def uneven() -> list[Made]:
    written = [Video().write(greys(), UNEVEN), Video("matroska").write(greys(), UNEVEN)]

    def by_time(found: DecodedMedia) -> None:
        has_greys([40, 120, 160, 200, 240], [0, 0.2, 1, 1.1, 2])(found)
        shown = [40, 120, 160, 200, 240]  # at 0, 0.5, 1, 1.5 and 2 seconds
        assert np.abs(found.even[:, 32, 48, 0].astype(float) - shown).max() <= 6

    def all_of_it(found: DecodedMedia) -> None:
        has_greys(GREYS, UNEVEN)(found)
        shown = [40, 120, 120, 200, 200, 240]  # at 0, 0.4, 0.8, 1.2, 1.6 and 2 seconds
        assert np.abs(found.even[:, 32, 48, 0].astype(float) - shown).max() <= 6, found.even[:, 32, 48, 0]

    half = MediaPolicy(frames_per_second=2)
    return [made for data in written for made in (Made(data, by_time, policy=half), Made(data, all_of_it))]


MATRICES = {
    "as it is": ((1, 0, 0, 1), lambda pixels: pixels),
    "a quarter to the right": ((0, 1, -1, 0), lambda pixels: np.rot90(pixels)),
    "upside down": ((-1, 0, 0, -1), lambda pixels: np.rot90(pixels, 2)),
    "a quarter to the left": ((0, -1, 1, 0), lambda pixels: np.rot90(pixels, -1)),
    "mirrored": ((-1, 0, 0, 1), lambda pixels: pixels[:, ::-1]),
    "mirrored upside down": ((1, 0, 0, -1), lambda pixels: pixels[::-1]),
    "mirrored along one diagonal": ((0, 1, 1, 0), lambda pixels: pixels.swapaxes(0, 1)),
    "mirrored along the other": ((0, -1, -1, 0), lambda pixels: np.rot90(pixels, 2).swapaxes(0, 1)),
}
"""Display matrices (a, b, c, d), and how a picture lies in the file that they show upright."""


def turned() -> list[Made]:
    return [
        Made(with_matrix(Video().write([np.ascontiguousarray(lay(WIDE))] * 3), numbers), shows())
        for numbers, lay in MATRICES.values()
    ]


def with_matrix(data: bytes, numbers: tuple[int, int, int, int]) -> bytes:
    """An MP4 with another matrix in the header of its track."""
    a, b, c, d = (number << 16 for number in numbers)
    at = data.index(b"tkhd") + 44
    return data[:at] + struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30) + data[at + 36 :]


def perceptual_quantiser(light: float) -> int:
    """Light in candela per square metre as 16 bits of SMPTE ST 2084."""
    power = (light / 10000) ** 0.1593017578125
    return round(65535 * ((0.8359375 + 18.8515625 * power) / (1 + 18.6875 * power)) ** 78.84375)


def high_range(curve: ColorTrc, levels: Sequence[int]) -> bytes:
    """A video of four greys of 16 bit, in quarters."""
    described = {"color_primaries": ColorPrimaries.BT2020, "color_trc": curve, "colorspace": 9}
    written = Video(
        codec="libx265", pixels="yuv420p10le", codec_options={"x265-params": "log-level=none"},
        described={name: int(value) for name, value in described.items()}, matrix=Colorspace.BT2020,
    )  # fmt: skip
    quarters = np.asarray(levels, np.uint16).reshape(2, 2).repeat(32, axis=0).repeat(48, axis=1)
    return written.write([np.repeat(quarters[..., None], 3, axis=2)] * 3)


def bright() -> list[Made]:
    """Paper white is white, a fifth of its light is a middle grey, and what is brighter is white."""
    lights = {0.0: 0, 203 / 5: 124, 203.0: 255, 4000.0: 255}
    quantised = high_range(ColorTrc.SMPTE2084, [perceptual_quantiser(light) for light in lights])
    hybrid = high_range(ColorTrc.ARIB_STD_B67, [0, round(0.75 * 65535)] * 2)
    seen = [(level,) * 3 for level in lights.values()]
    return [Made(quantised, shows(seen)), Made(hybrid, shows([(0,) * 3, (255,) * 3] * 2))]


def broadcast() -> Made:
    """Colours by the matrix of high definition."""
    return Video(described={"colorspace": 1}, matrix=Colorspace.ITU709).made()


def see_through() -> list[Made]:
    layer = np.dstack([WIDE, np.full(WIDE.shape[:2], 255, np.uint8)])
    layer[:, :48] = 0
    white = ((255, 255, 255), COLOURS[1], (255, 255, 255), COLOURS[3])
    kinds = (("mov", "prores_ks", "yuva444p10le"), ("mov", "qtrle", "argb"), ("matroska", "ffv1", "bgra"))
    return [Made(Video(*kind).write([layer] * 3), shows(white)) for kind in kinds]


def with_sound() -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as file:
        stream, sound = file.add_stream("libx264", rate=RATE), file.add_stream("aac", rate=16000, layout="mono")
        stream.width, stream.height = SIZE
        for _ in range(3):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(WIDE, format="rgb24")))
        file.mux(stream.encode(None))
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        silence.sample_rate = 16000
        file.mux(sound.encode(silence))
        file.mux(sound.encode(None))
    return buffer.getvalue()


def cut_off() -> list[Made]:
    noise = np.random.default_rng(0)
    frames = [noise.integers(0, 255, (64, 96, 3), dtype=np.uint8) for _ in range(12)]
    whole = [Video().write(frames), Video("matroska").write(frames), Video("webm", "libvpx").write(frames)]
    return [Made(data[: len(data) * part // 10]) for data in whole for part in (3, 6, 8)]


def moving_pictures() -> list[bytes]:
    import PIL.Image

    from tests.omnialign.media.policy.pictures import saved

    first, other = PIL.Image.fromarray(SCENE), PIL.Image.fromarray(SCENE[::-1])
    return [saved(first, kind, save_all=True, append_images=[other]) for kind in ("GIF", "PNG", "AVIF")]


HEVC = {"x265-params": "log-level=none"}
FILES: Files = {
    "MP4, H.264": lambda: [Video().made(), Video(pixels="yuv444p").made(), broadcast()],
    "MP4, HEVC": lambda: [Video(codec="libx265", codec_options=HEVC).made()],
    "MP4, AV1": lambda: [Video(codec="libsvtav1").made()],
    "MP4, MPEG-4 and Motion JPEG": lambda: [Video(codec="mpeg4").made(), Video("mp4", "mjpeg", "yuvj420p").made()],
    "MP4 with B-frames": lambda: [ordered()],
    "MP4 with an edit list": lambda: [edited()],
    "MP4 and MOV that are turned or mirrored": turned,
    "video of a variable frame rate": uneven,
    "10 bit": lambda: [
        Video(pixels="yuv420p10le").made(), Video(codec="libx265", pixels="yuv420p10le", codec_options=HEVC).made()
    ],
    "HDR (PQ, HLG), BT.2020": bright,
    "MP4 with or without sound": lambda: [Made(with_sound(), shows()), Video().made()],
    "WebM, VP8 and VP9": lambda: [Video("webm", "libvpx").made(), Video("webm", "libvpx-vp9").made()],
    "WebM, AV1": lambda: [Video("webm", "libsvtav1").made()],
    "MOV, ProRes": lambda: [Video("mov", "prores_ks", "yuv422p10le").made()],
    "video with an alpha channel": see_through,
    "Matroska": lambda: [
        Video("matroska").made(), Video("matroska", "ffv1").made(),
        Video("matroska", "libx265", codec_options=HEVC).made(),
    ],
    "AVI": lambda: [Video("avi", "mpeg4").made(), Video("avi", "mjpeg", "yuvj420p").made()],
    "MPEG-TS": lambda: [Video("mpegts").made()],
    "WMV, FLV": lambda: [Made(Video("asf", "wmv2").write([WIDE] * 3)), Video("flv").made()],
    "MP4 with sound only, claimed to be a video": lambda: [Made(sound_only(), claim=VIDEO)],
    "MP4 of which the sound is wanted": lambda: [Made(with_sound(), claim=AUDIO)],
    "video that is claimed to be a picture": lambda: [Made(Video().write([WIDE] * 3), claim=IMAGE)],
    "animated GIF, APNG and AVIF, and still pictures, as videos": lambda: [
        Made(data, claim=VIDEO) for data in (*moving_pictures(), scene("PNG"))
    ],
    "animated WebP as a video": lambda: [Made(scene("WEBP"), claim=VIDEO)],
    "video of a codec without a decoder here": lambda: [Made(Video().write([WIDE] * 3).replace(b"avc1", b"zzzz"))],
    "Video that is cut off": cut_off,
}  # fmt: skip


def sound_only() -> bytes:
    from tests.omnialign.media.policy.sounds import Sound

    return Sound("mp4", "aac").write()
