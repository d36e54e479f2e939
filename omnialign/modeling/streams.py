"""Decoding video and audio as streams: what the policy does not keep is freed before the next frame is decoded.

Files come as bytes, and nothing in them can make the decoder open another file. A frame that the policy drops is still
decoded, because later frames depend on it, but it is never converted to RGB.

A video is read in two passes: the first demuxes packets without decoding them, to learn when each frame is shown and
whether the file is complete; the second decodes, and keeps the frames chosen from those times.
"""

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from omnialign.media import MAX_DECODED_BYTES, MediaError, Pixels, Samples, too_large
from omnialign.media.bounds import Source
from omnialign.media.containers import HEADER_SLACK_SECONDS, WHOLE_SHARE, OpenedFile, Tally, decoded, opened, packets
from omnialign.media.sounds import mono
from omnialign.media.videos import rgb
from omnialign.modeling.inputs import MediaPolicy


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
    with opened(data) as file:
        timeline = _timeline(file, file.stream("video"))
    chosen, progress = sample_times(timeline.starts, policy), _Progress()
    with opened(data) as file:
        frames = decoded(file, file.stream("video"), progress.tally)
        kept = _kept(_good(frames, timeline.rate, progress), chosen)
        array, found = _filled(kept, len(chosen), policy)
        lost = timeline.short or _lost_frames(file, progress, timeline.starts, chosen)
    kept_rate = (len(found) - 1) / found[-1] if found[-1] > 0 else policy.frames_per_second or timeline.rate
    return Frames(array, found, kept_rate, lost)


def check_frames(source: Source, look: Callable[[Any], None]) -> str:
    """Decodes a whole video, calls `look` with each frame, and returns what does not decode, or "".

    This is the rule by which `read_frames` calls a video whole, without a picture kept. Raises MediaError.
    """
    with opened(source) as file:
        timeline = _timeline(file, file.stream("video"))
    progress = _Progress()
    with opened(source) as file:
        for _, frame in _good(decoded(file, file.stream("video"), progress.tally), timeline.rate, progress):
            look(frame)
        if progress.last_time == -math.inf:
            raise MediaError("No frame of the video decodes; replace the file.")
        return timeline.short or _lost_frames(file, progress, timeline.starts, timeline.starts)


def read_sound(data: bytes, policy: MediaPolicy) -> Sound:
    """The samples that the policy keeps. Raises MediaError when none decodes, or when they are too large."""
    tally, buffer, kept = Tally(), bytearray(), 0  # a growing buffer: joining chunks would double the memory
    with opened(data) as file:
        stream = file.stream("audio")
        seconds = file.stated_seconds(stream)
        rate_hz = policy.sample_rate_hz or int(stream.rate or 0) or 1
        limit = max(1, int(policy.max_audio_seconds * rate_hz)) if policy.max_audio_seconds else sys.maxsize
        frames = decoded(file, stream, tally)
        for chunk in mono(frames, rate_hz=rate_hz, first_channel_only=policy.first_channel_only):
            if (size_bytes := 4 * min(limit, max(kept + len(chunk), int(seconds * rate_hz)))) > MAX_DECODED_BYTES:
                raise too_large(size_bytes, "set max_audio_seconds or a lower sample_rate_hz")
            buffer += chunk[: limit - kept].tobytes()
            kept += len(chunk)
            if kept > limit:
                break
        lost = tally.lost_sound(file, stream, expected=0.0 if kept > limit else seconds)
        whole = max(file.header_seconds(stream), kept / rate_hz)
    if not kept and tally.seconds and policy.sample_rate_hz:  # too short to resample: its few samples stay as they are
        return replace(read_sound(data, replace(policy, sample_rate_hz=0)), rate_hz=rate_hz)
    if not kept:
        raise MediaError("No sample of the audio decodes; replace the file.")
    cut = f"{limit / rate_hz:g} of {whole:g} seconds are kept" if kept > limit else ""
    return Sound(np.frombuffer(buffer, dtype=np.float32), rate_hz, lost, cut)


def check_sound(source: Source, look: Callable[[float], None]) -> str:
    """Decodes a whole sound, calls `look` with the seconds so far, and returns what does not decode, or "".

    This is the rule by which `read_sound` calls a sound whole, without a sample kept. Raises MediaError.
    """
    tally = Tally()
    with opened(source) as file:
        stream = file.stream("audio")
        for _ in decoded(file, stream, tally):
            look(tally.seconds)
        if not tally.seconds:
            raise MediaError("No sample of the audio decodes; replace the file.")
        return tally.lost_sound(file, stream)


@dataclass(frozen=True)
class _Timeline:
    """When the frames of a video are shown, in seconds, by its packets alone; `short` says what the file lacks."""

    starts: list[float]
    rate: float
    short: str


def _timeline(file: OpenedFile, stream: Any) -> _Timeline:
    rate = float(stream.average_rate or stream.guessed_rate or 0) or 1.0
    spans = sorted(_spans(packets(file, stream, Tally()), rate))
    if not spans:
        raise MediaError("The video has no frame; replace the file.")
    short = file.lacks(stream) or _short_video(spans, claimed=stream.frames, seconds=file.stated_seconds(stream))
    return _Timeline([start for start, _ in spans], rate, short)


@dataclass
class _Progress:
    """How far a video has been decoded: what happened, and the time of the last good frame."""

    tally: Tally = field(default_factory=Tally)
    last_time: float = -math.inf


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


def _good(frames: Iterator[Any], rate: float, progress: _Progress) -> Iterator[tuple[float, Any]]:
    """The frames that are not corrupt, with their times."""
    for index, frame in enumerate(frames):
        if frame.is_corrupt:
            progress.tally.errors += 1
            continue
        time = _time(frame, index, rate)
        progress.last_time = max(time, progress.last_time)
        yield time, frame


def _kept(frames: Iterator[tuple[float, Any]], chosen: Sequence[float]) -> Iterator[tuple[float, Any]]:
    """The frames shown at the times in `chosen`, with their times.

    Where a chosen frame does not decode, the next one that does takes its place, and may stand for several.
    """
    position = 0
    for time, frame in frames:
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
            array = np.empty((count, *rgb(frame, size).shape), dtype=np.uint8)
        array[len(times)] = rgb(frame, size)
        times.append(time)
    if not times:
        raise MediaError("No frame of the video decodes; replace the file.")
    return array[: len(times)], tuple(time - times[0] for time in times)


def _short_video(spans: Sequence[tuple[float, float]], *, claimed: int, seconds: float) -> str:
    """What a video lacks of the length in its header, or ""; some headers claim too many frames."""
    found = max(end for _, end in spans) - spans[0][0]
    if found >= seconds * WHOLE_SHARE - HEADER_SLACK_SECONDS or 0 < claimed * WHOLE_SHARE <= len(spans):
        return ""
    return f"{found:g} of {seconds:g} seconds are in the file, in {len(spans)} frames"


def _lost_frames(file: OpenedFile, progress: _Progress, times: Sequence[float], chosen: Sequence[float]) -> str:
    errors, last_time = progress.tally.real_errors(file), progress.last_time
    if last_time - times[0] >= (chosen[-1] - times[0]) * WHOLE_SHARE and not errors:
        return ""
    return f"{errors} frames do not decode, and the last that does is at {last_time:g} of {times[-1]:g} s"
