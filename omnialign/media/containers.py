"""Opening sound and video files: what is in them, and whether all of it is there.

The type comes from the streams inside: an MP4 without moving pictures is a sound, whatever its brand. What decodes to
the end is whole. Only what the file itself states, such as an index or a number of samples, is evidence that something
is missing; a length that was guessed from a bit rate is none.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import av
import av.error
import av.logging
from av.stream import Disposition

from omnialign.media.bounds import (
    MAX_CHANNELS,
    MAX_DECODED_BYTES,
    MediaError,
    Source,
    as_file,
    size_bytes,
    too_large,
    too_many,
)
from omnialign.media.headers import counts_its_frames, is_webm, short_wav

FORMATS: dict[str, tuple[str, str]] = {
    "aac": ("audio/aac", ""), "ac3": ("audio/ac3", ""), "aiff": ("audio/aiff", ""), "amr": ("audio/amr", ""),
    "ape": ("audio/x-ape", ""), "asf": ("audio/x-ms-wma", "video/x-ms-wmv"), "au": ("audio/basic", ""),
    "avi": ("audio/x-avi", "video/x-msvideo"), "caf": ("audio/x-caf", ""), "dts": ("audio/vnd.dts", ""),
    "dv": ("", "video/dv"), "eac3": ("audio/eac3", ""), "flac": ("audio/flac", ""),
    "flv": ("audio/x-flv", "video/x-flv"), "h264": ("", "video/h264"), "hevc": ("", "video/h265"),
    "ivf": ("", "video/x-ivf"), "m4v": ("", "video/mp4v-es"), "matroska,webm": ("audio/x-matroska", "video/x-matroska"),
    "mov,mp4,m4a,3gp,3g2,mj2": ("audio/mp4", "video/mp4"), "mp3": ("audio/mpeg", ""),
    "mpeg": ("audio/x-mpeg-ps", "video/mpeg"), "mpegts": ("audio/mp2t", "video/mp2t"),
    "mpegvideo": ("", "video/mpeg"), "mxf": ("audio/mxf", "video/mxf"), "nut": ("audio/x-nut", "video/x-nut"),
    "ogg": ("audio/ogg", "video/ogg"), "rm": ("audio/vnd.rn-realaudio", "video/vnd.rn-realvideo"),
    "truehd": ("audio/x-truehd", ""), "tta": ("audio/x-tta", ""), "voc": ("audio/x-voc", ""),
    "w64": ("audio/x-w64", ""), "wav": ("audio/wav", ""), "wv": ("audio/x-wavpack", ""),
    "yuv4mpegpipe": ("", "video/x-yuv4mpeg"),
}  # fmt: skip
"""The containers that are taken, by FFmpeg's names, and their MIME types without and with moving pictures. None of them
is a playlist, which could make the decoder open other files."""
WEBM = ("audio/webm", "video/webm")
INDEXED = ("mov,mp4,m4a,3gp,3g2,mj2",)
"""Containers with an index of all samples, which tells more than their lengths: an edit list may skip samples."""
STATED = ("aiff", "au", "avi", "caf", "flac", "matroska,webm", "tta", "w64", "wv")
"""Containers that state how long their streams are."""
STREAMED = ("aac", "ac3", "amr", "dts", "eac3", "h264", "hevc", "mp3", "mpeg", "mpegts", "mpegvideo", "ogg")
"""Containers that can be cut anywhere: what they begin and end with may be a part of a frame, or a tag."""
MAX_PARTS_OF_FRAMES = 2
WHOLE_SHARE = 0.95
"""Decoders may drop a frame at either end; a file of which a smaller share decodes counts as damaged."""
HEADER_SLACK_SECONDS = 0.1
"""Headers round durations."""


@dataclass(frozen=True)
class OpenedFile:
    """A sound or video file whose streams are known."""

    container: Any
    mime_type: str
    size_bytes: int
    is_stated: bool
    """Whether the file states its length."""
    short: str
    """What the file lacks of the size in its header, or ""."""

    @property
    def format(self) -> str:
        """FFmpeg's name of the container."""
        return str(self.container.format.name)

    def stream(self, kind: str) -> Any:
        """The first stream of "audio" or "video". Raises MediaError."""
        streams = [one for one in getattr(self.container.streams, kind) if kind == "audio" or not _is_cover(one)]
        if not streams:
            raise MediaError(f"The file has no {kind} stream.")
        codec = streams[0].codec_context
        if codec is None:
            command = "ffmpeg -i FILE FILE.mp4" if kind == "video" else "ffmpeg -i FILE FILE.wav"
            message = (
                f"The file's {kind} is of a codec for which there is no decoder here: convert it with `{command}`."
            )
            raise MediaError(message, metadata={"command": command})
        if kind == "audio":
            _check_channels(self.container, streams[0])
        if kind == "video" and (decoded_bytes := codec.width * codec.height * 3) > MAX_DECODED_BYTES:
            raise too_large(decoded_bytes, "scale the video down")
        streams[0].thread_type = "NONE"  # callers limit the concurrency
        return streams[0]

    def header_seconds(self, stream: Any) -> float:
        """The duration of a stream by its header; 0 where only the file has one and the file holds several streams."""
        if stream.duration and stream.time_base:
            return float(stream.duration * stream.time_base)
        if tag := stream.metadata.get("DURATION"):
            hours, minutes, seconds = tag.split(":")
            return int(hours) * 3600 + int(minutes) * 60 + float(seconds)
        return float(self.container.duration or 0) / av.time_base if len(self.container.streams) == 1 else 0.0

    def stated_seconds(self, stream: Any) -> float:
        """The duration of a stream where the file states it; otherwise 0."""
        return self.header_seconds(stream) if self.is_stated else 0.0

    def lacks(self, stream: Any) -> str:
        """What the index names beyond the end of the file, or ""."""
        entries: Sequence[Any] = stream.index_entries if self.format in INDEXED else ()
        if entries and (needed := entries[-1].pos + entries[-1].size) > self.size_bytes:
            return f"the file has {self.size_bytes} bytes, and its index names {needed}"
        return self.short


def _check_channels(container: Any, stream: Any) -> None:
    """Bounds the channels, and gives those in an order of the file's own no order at all.

    PyAV copies the description of such an order without what it points to, and frees it twice: nothing may ask for the
    layout of the stream or its frames before that. FFmpeg's own summary tells the number of channels.
    """
    summary = re.search(rf"Stream #0:{stream.index}\b.*: Audio: .* Hz, (\d+) channels( \()?", _summary(container))
    if summary is None:  # a layout with a name, such as stereo
        return
    if (found := int(summary[1])) > MAX_CHANNELS:
        raise too_many("channels", found=found, limit=MAX_CHANNELS, mend="mix them down")
    if summary[2]:
        stream.codec_context.options = {"ch_layout": f"{found}C"}


def _summary(container: Any) -> str:
    """FFmpeg's description of a file, which it writes as a log message."""
    level = av.logging.get_level()
    av.logging.set_level(av.logging.INFO)
    try:
        return str(container.dumps_format())
    finally:
        av.logging.set_level(level)


def _is_cover(stream: Any) -> bool:
    """Whether a stream of pictures is the cover of a sound."""
    return bool(stream.disposition & Disposition.attached_pic)


@contextmanager
def opened(source: Source) -> Iterator[OpenedFile]:
    """Opens a file without decoding it. Raises MediaError, also for what its body raises."""
    file = as_file(source)
    size, webm, short = size_bytes(file), is_webm(file), short_wav(file)
    counted = counts_its_frames(file)
    file.seek(0)
    # Security: with no protocol allowed, nothing in a file can make the decoder open another one.
    options = {"protocol_whitelist": "none", "format_whitelist": ",".join(FORMATS)}
    try:
        with av.open(file, metadata_errors="replace", options=options) as container:
            name = container.format.name
            yield OpenedFile(
                container, _type(container, webm), size, name in STATED or (name == "mp3" and counted), short
            )
    except (av.error.FFmpegError, ValueError, IndexError, OverflowError, NotImplementedError) as error:
        raise MediaError(f"The media does not decode: {error}.") from error


def _type(container: Any, webm: bool) -> str:
    audio, video = WEBM if webm else FORMATS[container.format.name]
    if any(not _is_cover(stream) for stream in container.streams.video) and video:
        return video
    return audio if container.streams.audio else ""


def mime_type(source: Source) -> str:
    """The type of a sound or video, or "" if the bytes are neither."""
    try:
        with opened(source) as file:
            return file.mime_type
    except MediaError:
        return ""


@dataclass
class Tally:
    """What happened while decoding: packets and frames with errors, in all and between good ones, and the seconds."""

    errors: int = 0
    seconds: float = 0.0
    leading_errors: int | None = None
    inner_errors: int = 0

    def count_frame(self) -> None:
        """To be called for each good frame."""
        if self.leading_errors is None:
            self.leading_errors = self.errors
        self.inner_errors = self.errors - self.leading_errors

    def lost_sound(self, file: OpenedFile, stream: Any, *, expected: float | None = None) -> str:
        """What of a sound does not decode, or ""; `expected` seconds, or as many as the file states."""
        stated = file.stated_seconds(stream) if expected is None else expected
        errors = self.real_errors(file)
        if self.seconds >= (stated - HEADER_SLACK_SECONDS) * WHOLE_SHARE and not errors:
            return file.lacks(stream)
        return f"{self.seconds:g} of {max(self.seconds, stated):g} seconds decode, with {errors} errors"

    def real_errors(self, file: OpenedFile) -> int:
        """The errors that are not parts of frames at the ends of a file that was cut from a stream."""
        at_the_ends = self.errors - self.inner_errors
        return self.inner_errors if file.format in STREAMED and at_the_ends <= MAX_PARTS_OF_FRAMES else self.errors


def packets(file: OpenedFile, stream: Any, tally: Tally) -> Iterator[Any]:
    """The packets of a stream, up to its end or to where the file becomes unreadable."""
    try:
        yield from file.container.demux(stream)
    except av.error.FFmpegError:
        tally.errors += 1


def decoded(file: OpenedFile, stream: Any, tally: Tally) -> Iterator[Any]:
    """The frames that decode; packets that do not are counted as errors."""
    for packet in packets(file, stream, tally):
        try:
            for frame in packet.decode():
                tally.count_frame()
                if stream.type == "audio":
                    tally.seconds += frame.samples / max(1, frame.sample_rate)
                yield frame
        except av.error.EOFError:
            return
        except av.error.FFmpegError:
            tally.errors += 1
