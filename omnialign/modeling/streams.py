"""Decoding videos and sounds as streams under a policy: what is not kept is gone before the next frame comes.

Files come as bytes, and nothing in them can name another file to read. A frame that a policy does not keep is decoded,
since later ones need it, and never becomes RGB.
"""

import io
import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import av
import av.error
import numpy as np

from omnialign.media import MAX_DECODED_BYTES, MediaError, Pixels, Samples, too_large
from omnialign.modeling.inputs import MediaPolicy

WHOLE_SHARE = 0.95
"""A decoder may drop a frame at an edge; a file of which less than this decodes is damaged."""
HEADER_SLACK_SECONDS = 0.1
STREAMED_WAV_SIZES = (0, 0xFFFFFFFF)


@dataclass(frozen=True)
class Frames:
    """Kept frames `(frames, height, width, 3)` with their times; `lost` says what does not decode, or is empty."""

    array: Pixels
    times_seconds: tuple[float, ...]
    rate: float
    lost: str


@dataclass(frozen=True)
class Sound:
    """Mono samples; `lost` says what does not decode and `cut` what the policy left out, or they are empty."""

    array: Samples
    rate_hz: int
    lost: str
    cut: str


@dataclass
class Tally:
    """What a decoder met on its way."""

    errors: int = 0
    seconds: float = 0.0
    last_time: float = -math.inf


def sample(times: Sequence[float], policy: MediaPolicy) -> list[float]:
    """The times of the frames to keep, of those at `times` (ascending): first by rate, then at most so many.

    A wanted moment is served by the frame shown then, so that a slow or uneven source gives each frame at most once.
    """
    found = np.asarray(times, dtype=np.float64)
    if policy.frames_per_second and len(found):
        count = int((found[-1] - found[0]) * policy.frames_per_second + 1e-6) + 1
        wanted = found[0] + np.arange(count) / policy.frames_per_second
        found = found[np.unique(np.searchsorted(found, wanted + 1e-6, side="right") - 1)]
    if policy.max_frames and len(found) > policy.max_frames:
        wanted = np.linspace(found[0], found[-1], policy.max_frames)
        found = found[np.unique(np.abs(found[None, :] - wanted[:, None]).argmin(axis=1))]
    kept: list[float] = found.tolist()
    return kept


def read_frames(data: bytes, policy: MediaPolicy) -> Frames:
    """The frames that a policy keeps. Raises MediaError when none decodes, or when they are too large."""
    with _opened(data, "video") as (container, stream):
        rate = float(stream.average_rate or stream.guessed_rate or 0) or 1.0
        spans = sorted(_spans(_packets(container, stream, Tally()), rate))
        short = _short_video(spans, claimed=stream.frames, seconds=_header_seconds(container, stream))
    times, tally = [start for start, _ in spans], Tally()
    chosen = sample(times, policy)
    with _opened(data, "video") as (container, stream):
        array, found = _filled(_kept(_decoded(container, stream, tally), chosen, rate, tally), len(chosen), policy)
    kept_rate = (len(found) - 1) / found[-1] if found[-1] > 0 else policy.frames_per_second or rate
    return Frames(array, found, kept_rate, short or _lost_frames(tally, times, chosen))


def read_sound(data: bytes, policy: MediaPolicy) -> Sound:
    """The samples that a policy keeps. Raises MediaError when none decodes, or when they are too large."""
    tally, buffer, kept = Tally(), bytearray(), 0  # a buffer that grows: joining chunks would take twice the memory
    with _opened(data, "audio") as (container, stream):
        seconds = _header_seconds(container, stream)
        rate_hz = policy.sample_rate_hz or int(stream.rate or 0) or 1
        limit = max(1, int(policy.max_audio_seconds * rate_hz)) if policy.max_audio_seconds else sys.maxsize
        for chunk in _mono(_decoded(container, stream, tally), rate_hz, policy, tally):
            if (size_bytes := 4 * min(limit, max(kept + len(chunk), int(seconds * rate_hz)))) > MAX_DECODED_BYTES:
                raise too_large(size_bytes, "set max_audio_seconds or a lower sample_rate_hz")
            buffer += chunk[: limit - kept].tobytes()
            kept += len(chunk)
            if kept > limit:
                break
    if not kept and tally.seconds and policy.sample_rate_hz:  # too short to be resampled
        return replace(read_sound(data, replace(policy, sample_rate_hz=0)), rate_hz=rate_hz)
    if not kept:
        raise MediaError("The sound has no sample that decodes.")
    cut = f"{limit / rate_hz:g} of {max(seconds, kept / rate_hz):g} seconds are kept" if kept > limit else ""
    lost = _short_wav(data) or _lost_seconds(tally, 0 if cut else seconds)
    return Sound(np.frombuffer(buffer, dtype=np.float32), rate_hz, lost, cut)


@contextmanager
def _opened(data: bytes, kind: str) -> Iterator[tuple[Any, Any]]:
    """A container and its first stream of a kind. The decoder's errors become MediaError."""
    try:
        # No protocol is allowed: a play list that names files or addresses opens none of them.
        with av.open(io.BytesIO(data), metadata_errors="replace", options={"protocol_whitelist": "none"}) as container:
            streams = getattr(container.streams, kind)
            if not streams:
                raise MediaError(f"The file has no {kind} in it.")
            streams[0].thread_type = "NONE"  # callers bound how much runs at once
            yield container, streams[0]
    except (av.error.FFmpegError, ValueError, IndexError, OverflowError) as error:
        raise MediaError(f"The {kind} does not decode: {error}.") from error


def _packets(container: Any, stream: Any, tally: Tally) -> Iterator[Any]:
    """The packets of a stream up to its end or to where the file does not read on."""
    try:
        yield from container.demux(stream)
    except av.error.FFmpegError:
        tally.errors += 1


def _decoded(container: Any, stream: Any, tally: Tally) -> Iterator[Any]:
    """The frames that decode; packets that do not are counted."""
    for packet in _packets(container, stream, tally):
        try:
            yield from packet.decode()
        except av.error.EOFError:
            return
        except av.error.FFmpegError:
            tally.errors += 1


def _time(timed: Any, index: int, rate: float) -> float:
    """When a packet or a frame is shown, in seconds; by its number where the file does not say."""
    moment = timed.pts if timed.pts is not None else timed.dts
    return float(moment * timed.time_base) if moment is not None and timed.time_base else index / rate


def _spans(packets: Iterator[Any], rate: float) -> Iterator[tuple[float, float]]:
    """When the frame of each packet is shown, from and to, in seconds."""
    for index, packet in enumerate(packets):
        if packet.size and not packet.is_discard:
            start = _time(packet, index, rate)
            yield start, start + (float(packet.duration * packet.time_base) if packet.duration else 1 / rate)


def _kept(frames: Iterator[Any], chosen: Sequence[float], rate: float, tally: Tally) -> Iterator[tuple[float, Any]]:
    """The chosen frames with their times; where one does not decode the next takes its place."""
    position = 0
    for index, frame in enumerate(frames):
        time = _time(frame, index, rate)
        if frame.is_corrupt:
            tally.errors += 1
            continue
        tally.last_time = max(time, tally.last_time)
        if time < chosen[position] - 1e-6:
            continue
        yield time, frame
        while position < len(chosen) and chosen[position] <= time + 1e-6:
            position += 1
        if position == len(chosen):
            return


def _filled(kept: Iterator[tuple[float, Any]], count: int, policy: MediaPolicy) -> tuple[Pixels, tuple[float, ...]]:
    """At most `count` frames in RGB, upright and in the size that the first has under the policy, and their times."""
    array, size, times = np.zeros((0, 0, 0, 3), dtype=np.uint8), (0, 0), list[float]()
    for time, frame in kept:
        if not times:
            size = policy.scaled(frame.width, frame.height)
            if (size_bytes := size[0] * size[1] * 3 * count) > MAX_DECODED_BYTES:
                raise too_large(size_bytes, "set max_frames, frames_per_second or max_pixels")
            array = np.empty((count, *_rgb(frame, size).shape), dtype=np.uint8)
        array[len(times)] = _rgb(frame, size)
        times.append(time)
    if not times:
        raise MediaError("The video has no frame that decodes.")
    return array[: len(times)], tuple(time - times[0] for time in times)


def _rgb(frame: Any, size: tuple[int, int]) -> Pixels:
    """A frame upright, scaled to a width and a height before it is turned."""
    small = {} if size == (frame.width, frame.height) else {"interpolation": "AREA"}
    pixels: Pixels = frame.to_ndarray(format="rgb24", width=size[0], height=size[1], threads=1, **small)
    return np.rot90(pixels, k=round(frame.rotation / 90) % 4)


def _mono(frames: Iterator[Any], rate_hz: int, policy: MediaPolicy, tally: Tally) -> Iterator[Samples]:
    """Mono samples of frames. A stream that changes its layout or rate goes on in the new one."""
    resampler, shape = None, None
    for frame in frames:
        tally.seconds += frame.samples / max(1, frame.sample_rate)
        if shape != (shape := (frame.format.name, frame.layout.name, frame.sample_rate)) or resampler is None:
            if resampler is not None:
                yield from _mixed(resampler.resample(None), policy)
            resampler = av.AudioResampler(format="fltp", layout=frame.layout, rate=rate_hz)
        yield from _mixed(resampler.resample(frame), policy)
    if resampler is not None:
        yield from _mixed(resampler.resample(None), policy)


def _mixed(frames: Sequence[Any], policy: MediaPolicy) -> Iterator[Samples]:
    for frame in frames:
        channels = frame.to_ndarray()
        yield channels[0].copy() if policy.first_channel_only else channels.mean(axis=0, dtype=np.float32)


def _header_seconds(container: Any, stream: Any) -> float:
    """How long a stream is by its header; 0 where that speaks of the whole file alone, and others are in it."""
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    if tag := stream.metadata.get("DURATION"):
        hours, minutes, seconds = tag.split(":")
        return int(hours) * 3600 + int(minutes) * 60 + float(seconds)
    return float(container.duration or 0) / av.time_base if len(container.streams) == 1 else 0.0


def _short_video(spans: Sequence[tuple[float, float]], *, claimed: int, seconds: float) -> str:
    """What a file lacks of the seconds and frames that its header claims; some headers claim too many frames."""
    found = max(end for _, end in spans) - spans[0][0] if spans else 0.0
    if found >= seconds * WHOLE_SHARE - HEADER_SLACK_SECONDS or 0 < claimed * WHOLE_SHARE <= len(spans):
        return ""
    return f"{found:g} of {seconds:g} seconds are in the file, in {len(spans)} frames"


def _lost_frames(tally: Tally, times: Sequence[float], chosen: Sequence[float]) -> str:
    whole = tally.last_time - times[0] >= (chosen[-1] - times[0]) * WHOLE_SHARE
    if whole and not tally.errors:
        return ""
    return f"{tally.errors} frames do not decode, and the last that does is at {tally.last_time:g} of {times[-1]:g} s"


def _lost_seconds(tally: Tally, expected: float) -> str:
    if tally.seconds >= (expected - HEADER_SLACK_SECONDS) * WHOLE_SHARE and not tally.errors:
        return ""
    return f"{tally.seconds:g} of {max(tally.seconds, expected):g} seconds decode, with {tally.errors} errors"


def _short_wav(data: bytes) -> str:
    """The decoder takes a WAV that ends early as complete; its header knows better."""
    claimed, found = int.from_bytes(data[4:8], "little"), len(data) - 8
    if data[:4] != b"RIFF" or claimed in STREAMED_WAV_SIZES or found >= claimed - 1:
        return ""
    return f"{found} of {claimed} bytes of the WAV file are there"
