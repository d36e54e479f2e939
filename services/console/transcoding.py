"""What browsers cannot show, as they can: a picture as PNG, a sound as Opus and a video as VP8 with Opus, in WebM.

Runs in a child process, on bytes that cannot be trusted. What comes of it is bounded by construction: so many pixels,
so many seconds at so many bits. Where decoding is slow, a preview ends early instead of failing. Sounds become mono.
"""

import io
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from omnialign.errors import OmnialignError
from omnialign.media import MediaError, Pixels, write_image
from omnialign.media.containers import OpenedFile, Tally, decoded, opened
from omnialign.media.sounds import mono
from omnialign.media.videos import rgb
from omnialign.modeling.decoding import decode_image
from omnialign.modeling.inputs import MediaPolicy
from omnialign.v1 import content_pb2
from services.pipeline.pages.pictures import WAVEFORM_COLUMNS

PICTURE = MediaPolicy(max_pixels=4_000_000, use_damaged=True)
FRAME = MediaPolicy(max_pixels=640 * 480)
MAX_RATIO = 16
"""How many times as long as wide a picture may be; what is thinner is widened, or nobody would see it."""
SOUND_SECONDS, VIDEO_SECONDS = 600.0, 60.0
FRAMES_PER_SECOND = 25
RATE_HZ, SOUND_BITS, VIDEO_BITS = 48_000, 96_000, 1_500_000
ENOUGH_SECONDS = 45.0
"""Processor time after which a preview ends with what there is."""
VP8 = {"deadline": "realtime", "cpu-used": "8", "threads": "1"}
MILLISECOND = Fraction(1, 1000)
MAX_BLOCKS = 16_384
Pairs = NDArray[np.float32]


def preview(path: Path, modality: int) -> NDArray[np.uint8]:
    """The bytes of a preview. Raises MediaError if nothing of the file decodes."""
    with _typed():
        if modality == content_pb2.MODALITY_IMAGE:
            data = write_image(_picture(path.read_bytes()))
        else:
            data = _webm(path, with_pictures=modality == content_pb2.MODALITY_VIDEO)
        return np.frombuffer(data, np.uint8)  # unlike bytes, an array travels through shared memory


def peaks(path: Path) -> NDArray[np.float32]:
    """The lowest and the highest sample of each stretch of a sound, `(stretches, 2)`. Raises MediaError.

    A sound of any length is read as a stream: the longer it is, the more samples a block has of which peaks are kept.
    """
    parts, held, size, rest = list[Pairs](), 0, 1, np.zeros(0, np.float32)
    with _typed(), path.open("rb") as source, opened(source) as file:
        stream = file.stream("audio")
        for chunk in mono(decoded(file, stream, Tally()), rate_hz=int(stream.rate or 0) or 1):
            samples = np.concatenate((rest, chunk))
            whole = len(samples) // size
            rest = samples[whole * size :]
            parts.append(_extremes(samples[: whole * size].reshape(whole, size)))
            held += whole
            while held > MAX_BLOCKS:
                parts = [_joined(np.concatenate(parts))]
                held, size = len(parts[0]), size * 2
    if len(rest):
        parts.append(_extremes(rest[None]))
    if not parts:
        raise MediaError("No sample of the sound decodes; replace the file.")
    found = np.concatenate(parts)
    columns = np.array_split(found, min(WAVEFORM_COLUMNS, len(found)))
    return np.array([(one[:, 0].min(), one[:, 1].max()) for one in columns], np.float32)


@contextmanager
def _typed() -> Iterator[None]:
    """Makes a MediaError of whatever hostile bytes make decoders raise."""
    try:
        yield
    except (OmnialignError, MemoryError):
        raise
    except Exception as error:
        raise MediaError(f"The medium does not decode: {type(error).__name__}: {error}.") from error


def _extremes(blocks: NDArray[np.float32]) -> Pairs:
    """The lowest and the highest of each row."""
    return np.stack((blocks.min(axis=1), blocks.max(axis=1)), axis=1)


def _joined(pairs: Pairs) -> Pairs:
    """The peaks of blocks twice as long."""
    even = np.concatenate((pairs, pairs[-1:])) if len(pairs) % 2 else pairs
    two = even.reshape(-1, 2, 2)
    return np.stack((two[:, :, 0].min(axis=1), two[:, :, 1].max(axis=1)), axis=1)


def _picture(data: bytes) -> Pixels:
    pixels = decode_image(data, PICTURE).pixels
    height, width = pixels.shape[:2]
    size = PICTURE.scaled(max(width, math.ceil(height / MAX_RATIO)), max(height, math.ceil(width / MAX_RATIO)))
    return pixels if size == (width, height) else np.asarray(Image.fromarray(pixels).resize(size))


def _webm(path: Path, *, with_pictures: bool) -> bytes:
    """A preview of the sound in a file, or of its moving pictures with the sound if it has one."""
    buffer, until, packets = io.BytesIO(), time.process_time() + ENOUGH_SECONDS, list[Any]()
    with av.open(buffer, "w", format="webm") as container:
        if with_pictures:
            packets += _frames(path, container, until)
            with suppress(MediaError):  # a silent video
                packets += _sound(path, container, until + ENOUGH_SECONDS / 3, seconds=VIDEO_SECONDS)
        else:
            packets += _sound(path, container, until, seconds=SOUND_SECONDS)
        if not packets:
            raise MediaError("Nothing of the medium decodes; replace the file.")
        for packet in sorted(packets, key=lambda one: one.dts * one.time_base):
            container.mux(packet)
    return buffer.getvalue()


def _frames(path: Path, container: Any, until: float) -> Iterator[Any]:
    """The packets of the pictures, each shown when it was."""
    with path.open("rb") as source, opened(source) as file:
        stream = file.stream("video")
        encoder, size, first = None, (0, 0), 0.0
        for seconds, frame in _spaced(decoded(file, stream, Tally()), float(stream.average_rate or FRAMES_PER_SECOND)):
            if encoder is None:
                first, size = seconds, _even(*FRAME.scaled(frame.width, frame.height))
                encoder = _video_encoder(container, rgb(frame, size))
            if seconds - first > VIDEO_SECONDS or time.process_time() > until:
                break
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb(frame, size)), format="rgb24")
            if (picture.width, picture.height) == (encoder.width, encoder.height):
                picture.pts, picture.time_base = round((seconds - first) * 1000), MILLISECOND
                yield from encoder.encode(picture)
        if encoder is not None:
            yield from encoder.encode(None)


def _spaced(frames: Iterator[Any], rate: float) -> Iterator[tuple[float, Any]]:
    """Frames in the order of their times, no more than so many a second."""
    shown = -math.inf
    for number, frame in enumerate(frames):
        seconds = number / rate if frame.time is None else float(frame.time)
        if seconds >= shown + 1 / FRAMES_PER_SECOND - 1e-3:
            shown = seconds
            yield seconds, frame


def _video_encoder(container: Any, pixels: Pixels) -> Any:
    encoder = container.add_stream("libvpx", rate=FRAMES_PER_SECOND, options=VP8)
    encoder.height, encoder.width = pixels.shape[:2]
    encoder.pix_fmt, encoder.bit_rate, encoder.codec_context.time_base = "yuv420p", VIDEO_BITS, MILLISECOND
    return encoder


def _even(width: int, height: int) -> tuple[int, int]:
    return max(2, width - width % 2), max(2, height - height % 2)


def _sound(path: Path, container: Any, until: float, *, seconds: float) -> Iterator[Any]:
    """The packets of the sound, as much later than the pictures as in the file."""
    with path.open("rb") as source, opened(source) as file:
        stream, limit = file.stream("audio"), int(seconds * RATE_HZ)
        encoder = container.add_stream("libopus", rate=RATE_HZ, layout="mono")
        encoder.bit_rate = SOUND_BITS
        done = max(0, min(limit, round(_delay_seconds(file, stream) * RATE_HZ)))
        for chunk in mono(decoded(file, stream, Tally()), rate_hz=RATE_HZ):
            if done >= limit or time.process_time() > until:
                break
            kept = np.ascontiguousarray(chunk[: limit - done])
            frame = av.AudioFrame.from_ndarray(kept[None], format="flt", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = RATE_HZ, done, Fraction(1, RATE_HZ)
            yield from encoder.encode(frame)
            done += len(kept)
        yield from encoder.encode(None)


def _delay_seconds(file: OpenedFile, stream: Any) -> float:
    """How much later than the pictures of its file a sound begins; 0 where that is unknown."""
    pictures = file.container.streams.video
    begins = [one.start_time * one.time_base for one in (stream, *pictures[:1]) if one.start_time is not None]
    return float(begins[0] - begins[1]) if len(begins) > 1 else 0.0
