"""Coarse views of media, by which near duplicates are found: a picture's brightness and colours on a grid, those of
frames of a video, moments of a sound's spectrum.

Two media are compared view by view. Their similarity is 1 - d² / 2σ², where d² is the mean squared difference and σ²
the variance of what is compared: the correlation of views that are equally bright, and less where brightness or colour
differs. Where hardly anything is to be seen or heard σ does not fall below a floor, so that plain colours are told
apart by their colour, and silence from a soft tone.

Comparing each medium with all others would be too much. A perceptual hash, made of the low frequencies of a view (C.
Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions", 2010), differs in few bits between similar
media. It is cut into keys, and only media with a key in common are compared.

Everything here decodes bytes that cannot be trusted, or is quick; what decodes is called in the sandbox.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from omnialign.media import MediaError, Pixels, Samples
from omnialign.modeling import streams
from omnialign.modeling.decoding import decode_here
from omnialign.modeling.inputs import MediaBytes, MediaPolicy
from omnialign.v1.content_pb2 import MODALITY_AUDIO, MODALITY_IMAGE

BRIGHTNESS_GRID, COLOUR_GRID = 24, 8
"""Height and width of the views of a picture or a frame."""
FRAMES = 6
MOMENTS, BANDS = 48, 64
SAMPLE_RATE_HZ, WINDOW = 16_000, 4096
LOWEST_HZ, HIGHEST_HZ = 60.0, 7600.0
FLOOR_DB = -80.0
QUIET = 1e-3
"""What is softer at the start and the end of a sound does not count: encoders add some."""
CONTRAST_FLOOR = 8.0
"""The smallest standard deviation that views are compared by, in 256ths of their range."""
LEAST_CONTRAST, FLAT_LEVELS = 1.0, 32
MAX_SIDE = 255
FREQUENCIES = 8
KEYS, KEY_BITS = 20, 24
MAX_ASPECT, MAX_SECONDS, MAX_SECONDS_SHARE = 1.1, 0.2, 0.03
"""How far shapes and lengths of near duplicates may differ: as a factor, and as seconds and a share of them."""
POLICY = MediaPolicy(max_pixels=512 * 512, max_frames=FRAMES, sample_rate_hz=SAMPLE_RATE_HZ, use_damaged=True)

Views = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Fingerprint:
    """A medium in a few kilobytes."""

    views: tuple[Views, ...]
    """Each `(views, height, width)`. Of a picture or video: brightness, two channels of colour, and the sound if it has
    one; of a sound: its spectrum, bands by moments."""
    seconds: float = 0.0
    aspect: float = 1.0
    """Width by height."""


def fingerprints(media: Sequence[tuple[int, NDArray[np.uint8]]]) -> list[Fingerprint | None]:
    """The fingerprints of media, given as modality and bytes; None for one that does not decode. For the sandbox."""
    return [_fingerprint_or_none(modality, data.tobytes()) for modality, data in media]


def _fingerprint_or_none(modality: int, data: bytes) -> Fingerprint | None:
    try:
        return fingerprint(modality, data)
    except MemoryError:
        raise
    except Exception:  # hostile bytes make decoders raise all kinds of errors
        return None


def fingerprint(modality: int, data: bytes) -> Fingerprint:
    """The fingerprint of a medium. Raises MediaError."""
    decoded = decode_here(MediaBytes(modality, data), POLICY)
    if modality == MODALITY_AUDIO:
        return Fingerprint((_spectrum(decoded.array),), seconds=len(decoded.array) / decoded.rate)
    frames = decoded.array[None] if modality == MODALITY_IMAGE else decoded.array  # (frames, height, width, 3)
    aspect = frames.shape[2] / frames.shape[1]
    if modality == MODALITY_IMAGE:
        return Fingerprint(_pictures(frames), aspect=aspect)
    views: tuple[Views, ...] = _pictures(frames)
    with suppress(MediaError):  # most videos have no sound
        views = (*views, _spectrum(streams.read_sound(data, POLICY).array))
    return Fingerprint(views, seconds=max(decoded.times_seconds, default=0.0), aspect=aspect)


def _pictures(frames: Pixels) -> tuple[Views, Views]:
    """Brightness `(frames, 24, 24)` and the two channels of colour `(2 * frames, 8, 8)`."""
    channels = [Image.fromarray(frame).convert("YCbCr").split() for frame in frames]
    brightness = [_shrunk(luma, BRIGHTNESS_GRID) for luma, _, _ in channels]
    colours = [_shrunk(one, COLOUR_GRID) for _, *chroma in channels for one in chroma]
    return np.stack(brightness), np.stack(colours)


def _shrunk(channel: Image.Image, size: int) -> Views:
    return np.asarray(channel.resize((size, size), Image.Resampling.BOX))


def _spectrum(samples: Samples) -> Views:
    """Short-time spectra at moments spread over a sound, in decibels of full scale: `(1, bands, moments)`."""
    loud = np.flatnonzero(np.abs(samples) > QUIET)
    heard = samples[loud[0] : loud[-1] + 1] if len(loud) else samples
    padded = np.pad(heard, (WINDOW // 2, WINDOW // 2))
    starts = ((np.arange(MOMENTS) + 0.5) / MOMENTS * len(heard)).astype(int)
    frames = padded[starts[:, None] + np.arange(WINDOW)] * np.hanning(WINDOW)
    power = np.abs(np.fft.rfft(frames, axis=1)) ** 2 / (WINDOW / 4) ** 2  # a sine of full scale has power 1
    decibels = 10 * np.log10(power @ _bands() + 1e-12)
    levels = np.clip(1 - decibels / FLOOR_DB, 0, 1) * 255
    return levels.T.round().astype(np.uint8)[None]


def _bands() -> NDArray[np.float64]:
    """The weight of each frequency in each band, `(frequencies, bands)`: triangles on a logarithmic scale."""
    step = math.log(HIGHEST_HZ / LOWEST_HZ) / (BANDS - 1)
    frequencies = np.fft.rfftfreq(WINDOW, 1 / SAMPLE_RATE_HZ)
    places = np.log(np.maximum(frequencies, 1.0) / LOWEST_HZ) / step  # (frequencies,)
    weights: NDArray[np.float64] = np.maximum(0, 1 - np.abs(places[:, None] - np.arange(BANDS)))
    return weights


def checked(found: Fingerprint | None) -> Fingerprint | None:
    """What a child sent, or None: it may have been taken over by the bytes that it read, and lie."""
    if not isinstance(found, Fingerprint):
        return None
    is_good = isinstance(found.views, tuple) and 0 < len(found.views) <= 3
    is_good = is_good and all(isinstance(one, np.ndarray) and one.dtype == np.uint8 for one in found.views)
    is_good = is_good and all(one.ndim == 3 and one.size > 0 and max(one.shape) <= MAX_SIDE for one in found.views)
    return found if is_good and math.isfinite(found.seconds) and 0 < found.aspect < math.inf else None


def similarity(one: Fingerprint, other: Fingerprint) -> float:
    """How similar two media are: 1 if nothing differs, 0 for what has nothing in common or another length or shape."""
    if [view.shape for view in one.views] != [view.shape for view in other.views]:
        return 0.0
    longest = max(one.seconds, other.seconds)
    if abs(one.seconds - other.seconds) > MAX_SECONDS + MAX_SECONDS_SHARE * longest:
        return 0.0
    if max(one.aspect, other.aspect) > MAX_ASPECT * min(one.aspect, other.aspect):
        return 0.0
    return max(0.0, min(_least_similarity(*pair) for pair in zip(one.views, other.views, strict=True)))


def _least_similarity(one: Views, other: Views) -> float:
    """That of the two views that differ most."""
    first, second = one.astype(np.float64), other.astype(np.float64)
    variance = np.maximum((first.var(axis=(1, 2)) + second.var(axis=(1, 2))) / 2, CONTRAST_FLOOR**2)
    return float((1 - ((first - second) ** 2).mean(axis=(1, 2)) / (2 * variance)).min())


def keys(found: Fingerprint) -> Iterator[bytes]:
    """Similar media have at least one of these in common."""
    mean = found.views[0].mean(axis=0)  # (height, width)
    kind = bytes(mean.shape)
    if mean.std() < CONTRAST_FLOOR:  # by brightness and colours, with borders in two places
        levels = [mean.mean(), *(channel.mean() for view in found.views[1:2] for channel in view[:2])]
        for shift in (0, FLAT_LEVELS // 2):
            yield kind + bytes([shift]) + bytes(int(level + shift) // FLAT_LEVELS for level in levels)
    if mean.std() < LEAST_CONTRAST:  # the rest is noise
        return
    low = _cosines(mean.shape[0]) @ mean @ _cosines(mean.shape[1]).T
    signs = np.packbits(_DIRECTIONS @ (low * _FREQUENCY).ravel() > 0).tobytes()
    width = len(signs) // KEYS
    yield from (kind + bytes([number]) + signs[number * width :][:width] for number in range(KEYS))


# Pictures have the less of a frequency the higher it is, in proportion; this evens it out, and leaves out the mean.
_FREQUENCY = np.hypot(*np.indices((FREQUENCIES, FREQUENCIES)))
# On which side of a random plane a picture lies is more robust than the sign of one frequency, of which a plain drawing
# may have none.
_DIRECTIONS = np.random.default_rng(0).standard_normal((KEYS * KEY_BITS, FREQUENCIES**2))


def _cosines(size: int) -> NDArray[np.float64]:
    """The lowest frequencies of the discrete cosine transform, `(FREQUENCIES, size)`."""
    places = (np.arange(size) + 0.5) * math.pi / size
    return np.cos(np.arange(FREQUENCIES)[:, None] * places)
