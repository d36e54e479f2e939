"""Videos as RGB frames."""

import io
from fractions import Fraction
from typing import Any, cast

import av
import numpy as np

from omnialign.media.bounds import MediaError, Pixels
from omnialign.media.containers import Tally, decoded, opened

ENCODERS: dict[str, dict[str, str]] = {
    "libx264": {"crf": "12", "preset": "ultrafast", "threads": "1"},
    "libvpx-vp9": {"crf": "12", "b": "0", "deadline": "realtime", "cpu-used": "8", "threads": "1"},
    "mpeg4": {"qmin": "1", "qmax": "3", "threads": "1"},
}
"""Encoders with settings of about equal quality, the best first. Builds of FFmpeg without GPL parts lack libx264; no
browser plays what mpeg4 writes, but every FFmpeg has it."""


def rgb(frame: Any, size: tuple[int, int]) -> Pixels:
    """A frame as upright RGB `(height, width, 3)`, on white; `size` is the width and height before rotation."""
    small = {} if size == (frame.width, frame.height) else {"interpolation": "AREA"}
    if not _is_transparent(frame):
        pixels: Pixels = frame.to_ndarray(format="rgb24", width=size[0], height=size[1], threads=1, **small)
    else:
        layer = frame.to_ndarray(format="rgba", width=size[0], height=size[1], threads=1, **small).astype(np.uint16)
        alpha = layer[..., 3:]
        pixels = ((layer[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
    return np.rot90(pixels, k=round(frame.rotation / 90) % 4)


def _is_transparent(frame: Any) -> bool:
    """Whether the pixel format has an alpha component: colours and one more, or a grey and one more."""
    name: str = frame.format.name
    return name.startswith(("yuva", "rgba", "argb", "bgra", "abgr", "gbrap", "ya8", "ya16", "pal8"))


def read_video(data: bytes) -> tuple[Pixels, float]:
    """Decodes a video to upright RGB frames and their rate per second. Raises MediaError."""
    tally = Tally()
    with opened(data) as file:
        stream = file.stream("video")
        frames = [rgb(frame, (frame.width, frame.height)) for frame in decoded(file, stream, tally)]
        lost = file.lacks(stream) or (f"{errors} frames do not" if (errors := tally.real_errors(file)) else "")
        if not frames or lost:
            raise MediaError(f"The video does not decode: {lost or 'it has no frame'}.")
        return np.stack(frames), float(stream.average_rate or 0)


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
