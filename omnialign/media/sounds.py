"""Sounds as mono samples.

Frames are converted to interleaved samples before they become arrays: of planar frames with eight channels or more,
PyAV reads past the planes and ends the process.
"""

import io
import wave
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from omnialign.media.bounds import MediaError, Samples
from omnialign.media.containers import Tally, decoded, opened

PCM_PEAK = 32767
MAX_OVERSHOOT = 2.0
"""The largest sample that a filter may have made of a full scale; it is cut. What is larger has another scale."""


def mono(frames: Iterable[Any], *, rate_hz: int, first_channel_only: bool = False) -> Iterator[Samples]:
    """Mono samples of audio frames at `rate_hz`, chunk by chunk: the mean of all channels, or the first one.

    A stream may change its layout or rate on the way.
    """
    resampler, shape = None, None
    for frame in frames:
        if shape != (shape := (frame.format.name, frame.layout.name, frame.sample_rate)) or resampler is None:
            if resampler is not None:
                yield from _mixed(resampler.resample(None), first_channel_only)
            resampler = av.AudioResampler(format="flt", layout=frame.layout, rate=rate_hz)
        yield from _mixed(resampler.resample(frame), first_channel_only)
    if resampler is not None:
        yield from _mixed(resampler.resample(None), first_channel_only)


def _mixed(frames: Sequence[Any], first_channel_only: bool) -> Iterator[Samples]:
    for frame in frames:
        channels = frame.to_ndarray().reshape(-1, frame.layout.nb_channels)  # (samples, channels)
        yield channels[:, 0].copy() if first_channel_only else channels.mean(axis=1, dtype=np.float32)


def read_audio(data: bytes) -> tuple[Samples, int]:
    """Decodes a sound to mono float samples and their rate in hertz. Raises MediaError."""
    tally = Tally()
    with opened(data) as file:
        stream = file.stream("audio")
        rate_hz = int(stream.rate or 0) or 1
        chunks = list(mono(decoded(file, stream, tally), rate_hz=rate_hz))
        lost = tally.lost_sound(file, stream)
    if not chunks or lost:
        raise MediaError(f"The sound does not decode: {lost or 'it has no sample'}.")
    return np.concatenate(chunks), rate_hz


def mono_samples(array: Any) -> Samples:
    """Mono samples in [-1, 1] of numbers: `(samples,)`, or the mean of `(channels, samples)` or the other way round.

    Integers are scaled by their type; those without one, as in JSON, by the smallest of 16 and 32 bits that holds them.
    Raises ValueError.
    """
    numbers = np.asarray(array)
    if numbers.ndim not in (1, 2) or not numbers.size or numbers.dtype.kind not in "iuf":
        raise ValueError(f"an array of {numbers.dtype} in {numbers.ndim} dimensions is no sound")
    scaled = _in_unit_range(numbers)
    if scaled.ndim == 2:  # the shorter axis is the channels
        scaled = scaled.mean(axis=0 if scaled.shape[0] <= scaled.shape[1] else 1)
    return scaled.astype(np.float32)


def _in_unit_range(numbers: NDArray[Any]) -> NDArray[np.float64]:
    """Numbers as samples in [-1, 1], but for the overshoot of a filter. Raises ValueError."""
    if numbers.dtype.kind == "u":
        middle = 1 << (8 * numbers.itemsize - 1)
        return (numbers.astype(np.float64) - middle) / middle
    wide = numbers.astype(np.float64)
    peak = float(np.abs(wide).max())
    if numbers.dtype.kind == "i" and numbers.itemsize < np.dtype(np.int64).itemsize:
        return wide / (1 << (8 * numbers.itemsize - 1))
    if peak <= MAX_OVERSHOOT:  # a NaN is above every bound
        return wide
    bits = next((bits for bits in (16, 32) if peak <= 1 << (bits - 1)), 0)
    if not bits or not (wide == np.floor(wide)).all():
        raise ValueError(f"the samples reach {peak:g}, and -1 to 1 or whole numbers of 16 or 32 bits are taken")
    return wide / (1 << (bits - 1))


def write_audio(samples: Samples, rate_hz: int) -> bytes:
    """Encodes mono samples in [-1, 1] as 16-bit WAV."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate_hz)
        file.writeframes((np.clip(samples, -1, 1) * PCM_PEAK).round().astype("<i2").tobytes())
    return buffer.getvalue()
