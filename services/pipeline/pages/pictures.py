"""Media as a page can hold them: data URIs, and pictures of what has no picture.

A sound gets its waveform and its spectrogram beside the player, a video a strip of its frames, so that a printed or
silent page still shows the answer. Small files are embedded as they are; larger ones as a reduced picture, so that the
page stays light. Only types on the list below reach the page: a stored type is never trusted to become part of a data
URI by itself.
"""

import base64
import io
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from omnialign import media
from omnialign.content import NAMES
from omnialign.modeling.decoding import decode
from omnialign.modeling.inputs import MediaBytes, MediaPolicy
from omnialign.v1 import content_pb2

EMBEDDABLE = {"image/png", "image/jpeg", "image/gif", "image/webp", "video/mp4", "video/webm"}
EMBEDDABLE |= {"audio/wav", "audio/x-wav", "audio/mpeg", "audio/ogg", "audio/flac"}
SMALL_BYTES = 256 * 1024
THUMBNAIL_PIXELS = 640
STRIP_FRAMES = 8
STRIP_HEIGHT_PIXELS = 160
PIXEL_ART_PIXELS = 128  # smaller pictures are enlarged without smoothing
WAVEFORM_COLUMNS = 170
SPECTROGRAM_BINS = 96
SPECTROGRAM_COLUMNS = 320
SPECTROGRAM_FLOOR_DB = -60.0
WHOLE = MediaPolicy(use_damaged=True)  # what decodes is shown

# Dark to light through one hue family: reads on light and dark pages, and in grey.
INK = np.array([[17, 20, 38], [38, 50, 110], [64, 105, 180], [130, 180, 214], [238, 244, 240]], dtype=float)


@dataclass(frozen=True)
class Picture:
    """One medium, ready for the template. Empty URIs are left out of the page."""

    kind: Literal["image", "audio", "video", "missing"]
    picture: str = ""
    player: str = ""
    caption: str = ""
    waveform: tuple[tuple[float, float], ...] = ()
    """Of a sound: the lowest and the highest sample of each column, -1 to 1."""
    pixelated: bool = False
    width: int = field(default=0)
    height: int = field(default=0)

    @property
    def size(self) -> int:
        """Bytes that it takes on the page."""
        return len(self.picture) + len(self.player)


def picture(reference: content_pb2.Media, data: bytes | None) -> Picture:
    """The medium as pictures and players. What is absent or does not decode becomes a note, never an error."""
    if data is None:
        return Picture("missing", caption=f"not stored: {reference.sha256[:12]}")
    try:
        if reference.modality == content_pb2.MODALITY_IMAGE:
            return _image(reference, data)
        if reference.modality == content_pb2.MODALITY_AUDIO:
            return _audio(reference, data)
        if reference.modality == content_pb2.MODALITY_VIDEO:
            return _video(reference, data)
    except media.MediaError:
        pass
    return Picture("missing", caption=f"does not decode: {reference.sha256[:12]}")


def left_out(reference: content_pb2.Media) -> Picture:
    """What stands for a medium that would make the page too large."""
    kind = NAMES[reference.modality]
    return Picture("missing", caption=f"{kind} of {reference.size_bytes:,} bytes, left out to keep this page small")


def _image(reference: content_pb2.Media, data: bytes) -> Picture:
    pixels = decode(MediaBytes(reference.modality, data), WHOLE).array
    height, width = pixels.shape[:2]
    small = _original(reference, data)
    return Picture(
        "image",
        picture=small or _png(_shrunk(pixels, THUMBNAIL_PIXELS)),
        caption=f"image, {width} × {height}",
        pixelated=max(height, width) <= PIXEL_ART_PIXELS,
        width=width,
        height=height,
    )


def _audio(reference: content_pb2.Media, data: bytes) -> Picture:
    sound = decode(MediaBytes(reference.modality, data), WHOLE)
    samples, rate_hz = sound.array, sound.rate
    return Picture(
        "audio",
        picture=_png(spectrogram(samples)),
        player=_original(reference, data),
        waveform=waveform(samples),
        caption=f"sound, {len(samples) / rate_hz:.1f} s, 0 to {rate_hz / 2000:g} kHz",
    )


def _video(reference: content_pb2.Media, data: bytes) -> Picture:
    video = decode(MediaBytes(reference.modality, data), WHOLE)
    frames, rate = video.array, video.rate
    height, width = frames.shape[1:3]
    return Picture(
        "video",
        picture=_png(frame_strip(frames)),
        player=_original(reference, data),
        caption=f"video, {len(frames)} frames at {rate:g} per second",
        pixelated=max(height, width) <= PIXEL_ART_PIXELS,
        width=width,
        height=height,
    )


def waveform(samples: media.Samples) -> tuple[tuple[float, float], ...]:
    """The lowest and the highest sample of each column, at least a hair apart so that silence is a line."""
    columns = np.array_split(samples, min(WAVEFORM_COLUMNS, len(samples))) if len(samples) else [np.zeros(1)]
    return tuple((round(float(c.min()) - 0.01, 3), round(float(c.max()) + 0.01, 3)) for c in columns)


def spectrogram(samples: media.Samples) -> media.Pixels:
    """The sound's power over time (across) and frequency (upwards, linear), as an RGB picture."""
    window = 512 if len(samples) >= 4096 else 256
    padded = np.pad(samples, (0, max(0, window - len(samples))))
    starts = np.linspace(0, len(padded) - window, SPECTROGRAM_COLUMNS).astype(int)
    frames = padded[starts[:, None] + np.arange(window)] * np.hanning(window)
    power = np.abs(np.fft.rfft(frames, axis=1)) ** 2
    loudness = 10 * np.log10(power / max(float(power.max()), 1e-12) + 1e-12)
    levels = np.clip(1 - loudness / SPECTROGRAM_FLOOR_DB, 0, 1).T[::-1]
    rows = np.linspace(0, len(levels) - 1, SPECTROGRAM_BINS).astype(int)
    return _inked(levels[rows])


def frame_strip(frames: media.Pixels) -> media.Pixels:
    """Up to eight frames, evenly spaced, side by side with a thin white gap."""
    chosen = frames[np.linspace(0, len(frames) - 1, min(len(frames), STRIP_FRAMES)).astype(int)]
    shrunk = [_shrunk(frame, STRIP_HEIGHT_PIXELS) for frame in chosen]
    gap = np.full((shrunk[0].shape[0], max(1, shrunk[0].shape[1] // 24), 3), 255, dtype=np.uint8)
    pieces = [piece for frame in shrunk for piece in (frame, gap)]
    return np.concatenate(pieces[:-1], axis=1)


def _inked(levels: NDArray[np.float64]) -> media.Pixels:
    stops = np.linspace(0, 1, len(INK))
    return np.stack([np.interp(levels, stops, INK[:, i]) for i in range(3)], axis=-1).astype(np.uint8)


def _shrunk(pixels: media.Pixels, limit: int) -> media.Pixels:
    image = Image.fromarray(pixels)
    image.thumbnail((limit, limit))
    return np.asarray(image)


def _png(pixels: media.Pixels) -> str:
    image, buffer = Image.fromarray(pixels), io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return _data_uri("image/png", buffer.getvalue())


def _original(reference: content_pb2.Media, data: bytes) -> str:
    if len(data) > SMALL_BYTES or reference.mime_type not in EMBEDDABLE:
        return ""
    return _data_uri(reference.mime_type, data)


def _data_uri(mime_type: str, data: bytes) -> str:
    return f"data:{mime_type};base64,{base64.b64encode(data).decode()}"
