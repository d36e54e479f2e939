"""Videos as upright sRGB frames.

The picture of a phone is turned, or mirrored, by the display matrix of its file. Wide gamuts and the brightness curves
of high dynamic range are converted: shown as they are, they look pale and dark. White at 203 candela per square metre
becomes white (ITU-R BT.2408), and what is brighter is cut.
"""

import io
import threading
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, cast

import av
import numpy as np
from av.sidedata.sidedata import Type
from av.video.reformatter import ColorPrimaries, ColorTrc, VideoReformatter
from numpy.typing import NDArray

from omnialign.media.bounds import MediaError, Pixels
from omnialign.media.containers import Tally, decoded, opened

ENCODERS: dict[str, dict[str, str]] = {
    "libx264": {"crf": "12", "preset": "ultrafast", "threads": "1"},
    "libvpx-vp9": {"crf": "12", "b": "0", "deadline": "realtime", "cpu-used": "8", "threads": "1"},
    "mpeg4": {"qmin": "1", "qmax": "3", "threads": "1"},
}
"""Encoders with settings of about equal quality, the best first. Builds of FFmpeg without GPL parts lack libx264; no
browser plays what mpeg4 writes, but every FFmpeg has it."""
HIGH_RANGE = (ColorTrc.SMPTE2084, ColorTrc.ARIB_STD_B67)
WIDE_GAMUT = (ColorPrimaries.BT2020, ColorPrimaries.SMPTE431, ColorPrimaries.SMPTE432)
JITTER_SECONDS = 0.001
"""By how much time stamps may be rounded: Matroska and FLV have milliseconds."""


def rgb(frame: Any, size: tuple[int, int]) -> Pixels:
    """A frame as upright sRGB `(height, width, 3)`, on white; `size` is the width and height before rotation."""
    pixels = _converted(frame, size, "rgba" if _is_transparent(frame) else "rgb24")
    if pixels.shape[-1] == 4:
        layer = pixels.astype(np.uint16)
        alpha = layer[..., 3:]
        pixels = ((layer[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
    return _upright(pixels, frame)


def _converted(frame: Any, size: tuple[int, int], pixels: str) -> Pixels:
    options = _colours(frame)
    if size != (frame.width, frame.height):
        options["interpolation"] = "AREA"
    if not hasattr(_thread, "reformatter"):
        _thread.reformatter = VideoReformatter()
    found = _thread.reformatter.reformat(
        frame, width=size[0], height=size[1], format=pixels, threads=1, **options
    ).to_ndarray()
    return cast(Pixels, found)


_thread = threading.local()
"""Holds what converts frames: between colours, it takes a second or more to make, and serves all frames of a video."""


def _colours(frame: Any) -> dict[str, Any]:
    """What converts the colours of a frame to sRGB; nothing for the usual ones, which are close to it."""
    curve, primaries = frame.color_trc, frame.color_primaries
    if curve not in HIGH_RANGE and primaries not in WIDE_GAMUT:
        return {}
    target = ColorTrc.IEC61966_2_1 if curve in (*HIGH_RANGE, ColorTrc.IEC61966_2_1) else ColorTrc.BT709
    return {"dst_color_trc": target, "dst_color_primaries": ColorPrimaries.BT709}


def _upright(pixels: Pixels, frame: Any) -> Pixels:
    """Turns and mirrors a picture as its display matrix says, by right angles.

    The matrix `[a b u; c d v; x y w]` shows the pixel at (p, q), from the left and the top, at (a p + c q, b p + d q).
    """
    matrix = frame.side_data.get(Type.DISPLAYMATRIX)
    if matrix is None:
        return pixels
    a, b, _, c, d, *_ = np.frombuffer(bytes(matrix), dtype=np.int32).astype(np.int64)
    across, down = (a, d) if (is_straight := abs(a) + abs(d) >= abs(b) + abs(c)) else (c, b)
    turned = pixels if is_straight else pixels.swapaxes(0, 1)
    return turned[:: -1 if down < 0 else 1, :: -1 if across < 0 else 1]


def evenly_spaced(times: Sequence[float]) -> NDArray[np.intp]:
    """Indices of the frames on screen at as many even moments as there are `times` (ascending, in seconds; not empty).

    Of a constant rate, these are all frames in order. Of a variable one, long frames come again, short ones may not.
    """
    moments = np.linspace(times[0], times[-1], len(times))
    slack = min(JITTER_SECONDS, (times[-1] - times[0]) / len(times) / 4)
    return np.searchsorted(np.asarray(times), moments + slack, side="right") - 1


def _is_transparent(frame: Any) -> bool:
    """Whether the pixel format has an alpha component: colours and one more, or a grey and one more."""
    name: str = frame.format.name
    return name.startswith(("yuva", "rgba", "argb", "bgra", "abgr", "gbrap", "ya8", "ya16", "pal8"))


def read_video(data: bytes) -> tuple[Pixels, float]:
    """Decodes a video to upright sRGB frames at even times, and their rate per second. Raises MediaError."""
    tally = Tally()
    with opened(data) as file:
        stream = file.stream("video")
        frames, times = list[Pixels](), list[float]()
        for frame in decoded(file, stream, tally):
            frames.append(rgb(frame, (frame.width, frame.height)))
            times.append(len(times) if frame.time is None else float(frame.time))
        lost = file.lacks(stream) or (f"{errors} frames do not" if (errors := tally.real_errors(file)) else "")
        if not frames or lost:
            raise MediaError(f"The video does not decode: {lost or 'it has no frame'}.")
        return np.stack(frames)[evenly_spaced(sorted(times))], float(stream.average_rate or 0)


def write_video(frames: Pixels, frames_per_second: float) -> bytes:
    """Encodes RGB frames of even height and width in MP4 (4:4:4 is avoided: browsers do not play it)."""
    buffer, encoder = io.BytesIO(), next(filter(av.codecs_available.__contains__, ENCODERS), "mpeg4")
    with av.open(buffer, mode="w", format="mp4") as container:
        rate = Fraction(frames_per_second).limit_denominator(1000)
        stream = cast(av.VideoStream, container.add_stream(encoder, rate=rate, options=ENCODERS[encoder]))
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for pixels in frames:
            for packet in stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode(None):
            container.mux(packet)
    return buffer.getvalue()
