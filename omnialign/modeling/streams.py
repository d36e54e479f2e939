"""Decoding video and audio as streams: what the policy does not keep is freed before the next frame is decoded.

Files come as bytes, and nothing in them can make the decoder open another file. A frame that the policy drops is still
decoded, because later frames depend on it, but it is never converted to RGB.

A video is read in two passes: the first demuxes packets without decoding them, to learn when each frame is shown and
whether the file is complete; the second decodes, and keeps the frames chosen from those times.
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
"""Decoders may drop a frame at either end; a file of which a smaller share decodes counts as damaged."""
HEADER_SLACK_SECONDS = 0.1
"""Headers round durations."""
STREAMED_WAV_SIZES = (0, 0xFFFFFFFF)
"""Size fields of a WAV that was written to a pipe, when its length was not known yet."""


@dataclass(frozen=True)
class Frames:
    """Kept frames, uint8 `(frames, height, width, 3)`, and their times; `lost` says what does not decode, or ""."""

    array: Pixels
    times_seconds: tuple[float, ...]
    rate: float
    lost: str


@dataclass(frozen=True)
class Sound:
    """Mono samples, float32 `(samples,)`; `lost` says what does not decode, `cut` what the policy left out, or ""."""

    array: Samples
    rate_hz: int
    lost: str
    cut: str


@dataclass
class DecodeStats:
    """What happened while decoding: packets and frames with errors, seconds decoded, time of the last good frame."""

    errors: int = 0
    seconds: float = 0.0
    last_time: float = -math.inf


def sample_times(times: Sequence[float], policy: MediaPolicy) -> list[float]:
    """Chooses the frames to keep from those shown at `times` (ascending), by `frames_per_second`, then `max_frames`.

    Each wanted moment gets the frame that is on screen then, so that a slow or uneven video gives each frame at most
    once.
    """
    kept = np.asarray(times, dtype=np.float64)  # (frames,)
    # 1. By rate: the last frame that starts at or before each wanted moment; 1e-6 s absorbs rounding of timestamps.
    if policy.frames_per_second and len(kept):
        count = int((kept[-1] - kept[0]) * policy.frames_per_second + 1e-6) + 1
        wanted = kept[0] + np.arange(count) / policy.frames_per_second
        kept = kept[np.unique(np.searchsorted(kept, wanted + 1e-6, side="right") - 1)]
    # 2. By number: the frames nearest to moments spread evenly from the first to the last.
    if policy.max_frames and len(kept) > policy.max_frames:
        wanted = np.linspace(kept[0], kept[-1], policy.max_frames)
        kept = kept[np.unique(np.abs(kept[None, :] - wanted[:, None]).argmin(axis=1))]
    chosen: list[float] = kept.tolist()
    return chosen


def read_frames(data: bytes, policy: MediaPolicy) -> Frames:
    """The frames that the policy keeps. Raises MediaError when none decodes, or when they are too large."""
    with _opened(data, "video") as (container, stream):
        rate = float(stream.average_rate or stream.guessed_rate or 0) or 1.0
        spans = sorted(_spans(_packets(container, stream, DecodeStats()), rate))
        short = _short_video(spans, claimed=stream.frames, seconds=_header_seconds(container, stream))
    times, stats = [start for start, _ in spans], DecodeStats()
    chosen = sample_times(times, policy)
    with _opened(data, "video") as (container, stream):
        array, found = _filled(_kept(_decoded(container, stream, stats), chosen, rate, stats), len(chosen), policy)
    kept_rate = (len(found) - 1) / found[-1] if found[-1] > 0 else policy.frames_per_second or rate
    return Frames(array, found, kept_rate, short or _lost_frames(stats, times, chosen))


def read_sound(data: bytes, policy: MediaPolicy) -> Sound:
    """The samples that the policy keeps. Raises MediaError when none decodes, or when they are too large."""
    stats, buffer, kept = DecodeStats(), bytearray(), 0  # a growing buffer: joining chunks would double the memory
    with _opened(data, "audio") as (container, stream):
        seconds = _header_seconds(container, stream)
        rate_hz = policy.sample_rate_hz or int(stream.rate or 0) or 1
        limit = max(1, int(policy.max_audio_seconds * rate_hz)) if policy.max_audio_seconds else sys.maxsize
        for chunk in _mono(_decoded(container, stream, stats), rate_hz, policy, stats):
            if (size_bytes := 4 * min(limit, max(kept + len(chunk), int(seconds * rate_hz)))) > MAX_DECODED_BYTES:
                raise too_large(size_bytes, "set max_audio_seconds or a lower sample_rate_hz")
            buffer += chunk[: limit - kept].tobytes()
            kept += len(chunk)
            if kept > limit:
                break
    if not kept and stats.seconds and policy.sample_rate_hz:  # too short to resample: its few samples stay as they are
        return replace(read_sound(data, replace(policy, sample_rate_hz=0)), rate_hz=rate_hz)
    if not kept:
        raise MediaError("No sample of the audio decodes; replace the file.")
    cut = f"{limit / rate_hz:g} of {max(seconds, kept / rate_hz):g} seconds are kept" if kept > limit else ""
    lost = _short_wav(data) or _lost_seconds(stats, 0 if cut else seconds)
    return Sound(np.frombuffer(buffer, dtype=np.float32), rate_hz, lost, cut)


@contextmanager
def _opened(data: bytes, kind: str) -> Iterator[tuple[Any, Any]]:
    """Opens a container and its first stream of a kind. The decoder's errors become MediaError."""
    try:
        # Security: with no protocol allowed, a playlist that names files or URLs cannot make the decoder open them.
        with av.open(io.BytesIO(data), metadata_errors="replace", options={"protocol_whitelist": "none"}) as container:
            streams = getattr(container.streams, kind)
            if not streams:
                raise MediaError(f"The file has no {kind} stream.")
            streams[0].thread_type = "NONE"  # callers limit the concurrency
            yield container, streams[0]
    except (av.error.FFmpegError, ValueError, IndexError, OverflowError) as error:
        raise MediaError(f"The {kind} does not decode: {error}.") from error


def _packets(container: Any, stream: Any, stats: DecodeStats) -> Iterator[Any]:
    """The packets of a stream, up to its end or to where the file becomes unreadable."""
    try:
        yield from container.demux(stream)
    except av.error.FFmpegError:
        stats.errors += 1


def _decoded(container: Any, stream: Any, stats: DecodeStats) -> Iterator[Any]:
    """The frames that decode; packets that do not are counted as errors."""
    for packet in _packets(container, stream, stats):
        try:
            yield from packet.decode()
        except av.error.EOFError:
            return
        except av.error.FFmpegError:
            stats.errors += 1


def _time(timed: Any, index: int, rate: float) -> float:
    """When a packet or a frame is shown, in seconds; derived from its index where the file does not say."""
    moment = timed.pts if timed.pts is not None else timed.dts
    return float(moment * timed.time_base) if moment is not None and timed.time_base else index / rate


def _spans(packets: Iterator[Any], rate: float) -> Iterator[tuple[float, float]]:
    """When the frame of each packet appears and disappears, in seconds."""
    for index, packet in enumerate(packets):
        if packet.size and not packet.is_discard:
            start = _time(packet, index, rate)
            yield start, start + (float(packet.duration * packet.time_base) if packet.duration else 1 / rate)


def _kept(
    frames: Iterator[Any], chosen: Sequence[float], rate: float, stats: DecodeStats
) -> Iterator[tuple[float, Any]]:
    """The frames shown at the times in `chosen`, with their times.

    Where a chosen frame does not decode, the next one that does takes its place, and may stand for several.
    """
    position = 0
    for index, frame in enumerate(frames):
        time = _time(frame, index, rate)
        if frame.is_corrupt:
            stats.errors += 1
            continue
        stats.last_time = max(time, stats.last_time)
        if time < chosen[position] - 1e-6:
            continue
        yield time, frame
        while position < len(chosen) and chosen[position] <= time + 1e-6:
            position += 1
        if position == len(chosen):
            return


def _filled(kept: Iterator[tuple[float, Any]], count: int, policy: MediaPolicy) -> tuple[Pixels, tuple[float, ...]]:
    """At most `count` upright RGB frames `(frames, height, width, 3)`, all in the first one's size, and their times."""
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
        raise MediaError("No frame of the video decodes; replace the file.")
    return array[: len(times)], tuple(time - times[0] for time in times)


def _rgb(frame: Any, size: tuple[int, int]) -> Pixels:
    """A frame as upright RGB `(height, width, 3)`; `size` is the width and height before rotation."""
    small = {} if size == (frame.width, frame.height) else {"interpolation": "AREA"}
    pixels: Pixels = frame.to_ndarray(format="rgb24", width=size[0], height=size[1], threads=1, **small)
    return np.rot90(pixels, k=round(frame.rotation / 90) % 4)


def _mono(frames: Iterator[Any], rate_hz: int, policy: MediaPolicy, stats: DecodeStats) -> Iterator[Samples]:
    """Mono samples of audio frames, chunk by chunk. A stream may change its layout or rate on the way."""
    resampler, shape = None, None
    for frame in frames:
        stats.seconds += frame.samples / max(1, frame.sample_rate)
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
    """The duration of a stream by its header; 0 where only the file has one and the file holds several streams."""
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    if tag := stream.metadata.get("DURATION"):
        hours, minutes, seconds = tag.split(":")
        return int(hours) * 3600 + int(minutes) * 60 + float(seconds)
    return float(container.duration or 0) / av.time_base if len(container.streams) == 1 else 0.0


def _short_video(spans: Sequence[tuple[float, float]], *, claimed: int, seconds: float) -> str:
    """What a video lacks of the length in its header, or ""; some headers claim too many frames."""
    found = max(end for _, end in spans) - spans[0][0] if spans else 0.0
    if found >= seconds * WHOLE_SHARE - HEADER_SLACK_SECONDS or 0 < claimed * WHOLE_SHARE <= len(spans):
        return ""
    return f"{found:g} of {seconds:g} seconds are in the file, in {len(spans)} frames"


def _lost_frames(stats: DecodeStats, times: Sequence[float], chosen: Sequence[float]) -> str:
    whole = stats.last_time - times[0] >= (chosen[-1] - times[0]) * WHOLE_SHARE
    if whole and not stats.errors:
        return ""
    return f"{stats.errors} frames do not decode, and the last that does is at {stats.last_time:g} of {times[-1]:g} s"


def _lost_seconds(stats: DecodeStats, expected: float) -> str:
    if stats.seconds >= (expected - HEADER_SLACK_SECONDS) * WHOLE_SHARE and not stats.errors:
        return ""
    return f"{stats.seconds:g} of {max(stats.seconds, expected):g} seconds decode, with {stats.errors} errors"


def _short_wav(data: bytes) -> str:
    """What a truncated WAV lacks, or "": decoders take it as complete, but its header gives its full size."""
    claimed, found = int.from_bytes(data[4:8], "little"), len(data) - 8
    if data[:4] != b"RIFF" or claimed in STREAMED_WAV_SIZES or found >= claimed - 1:
        return ""
    return f"the WAV file has {found} of its {claimed} bytes"
