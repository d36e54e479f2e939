"""The media that rows hold or refer to.

A path in the data is never trusted: it must name a regular file inside the import's own folder after all links are
followed. Which files rows named is noted, so that a later import can tell whether they have changed.
"""

import base64
import binascii
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from omnialign.errors import InvalidArgument
from omnialign.media.sounds import mono_samples, write_audio
from omnialign.v1 import content_pb2
from services.data.importing.identity import MAPPINGS
from services.data.importing.refusal import described
from services.data.importing.scales import as_integer
from services.data.importing.sources import POINTER, SourceFile, is_pointer

MAX_RATE_HZ = 768_000
FOLDERS = {
    content_pb2.MODALITY_IMAGE: ("images", "image", "media", "media_data", "mm_data/image", "visual"),
    content_pb2.MODALITY_AUDIO: ("audios", "audio", "media", "media_data", "mm_data/audio", "auditory"),
    content_pb2.MODALITY_VIDEO: ("videos", "video", "media", "media_data", "visual"),
}


def media_error(reason: str, message: str) -> InvalidArgument:
    """The error for media of a row that cannot be imported."""
    return InvalidArgument(message, reason=reason)


Visit = tuple[str, int, int, int]
"""A media file that a row named: its name in the row, the modality, its size in bytes and the time of its last change
in nanoseconds; -1 for both if there is none."""


class Keeper(Protocol):
    """Takes media, and returns their references. Raises the reasons of `media_validation`."""

    def put(self, data: bytes, modality: int) -> content_pb2.Media:
        """Takes bytes."""
        ...

    def put_file(self, path: Path, modality: int) -> content_pb2.Media:
        """Takes a copy of a file."""
        ...


class MediaPaths:
    """Where the media files are that rows of one data file name."""

    def __init__(self, source: SourceFile) -> None:
        self._root, parent = source.root.resolve(), source.path.parent
        self._bases = (parent, parent.parent) if parent.resolve() != self._root else (parent,)

    def find(self, name: str, modality: int) -> Path:
        """The file, links followed. Raises MEDIA_MISSING, MEDIA_PATH_FORBIDDEN."""
        for path in self._places(name, modality):
            if (found := self._inside(path)) is not None:
                return found
        raise media_error("MEDIA_MISSING", "there is no such media file in the folder of the data")

    def visit(self, name: str, modality: int) -> Visit:
        """The file as it is now, which need not be one that may be read."""
        for path in self._places(name, modality):
            with suppress(OSError, ValueError):
                found = path.stat()
                if stat.S_ISREG(found.st_mode):
                    return name, modality, found.st_size, found.st_mtime_ns
        return name, modality, -1, -1

    def has_changed(self, visit: Visit) -> bool:
        """Whether a file that a row named is another one by now."""
        return self.visit(visit[0], visit[1]) != visit

    def _places(self, name: str, modality: int) -> Iterator[Path]:
        relative = relative_path(name)
        for base in self._bases:
            for folder in ("", *FOLDERS[content_pb2.Modality.ValueType(modality)]):
                yield base / folder / relative

    def _inside(self, path: Path) -> Path | None:
        """The file, links followed; None if it does not exist. Raises MEDIA_PATH_FORBIDDEN if a link leads outside."""
        try:
            resolved = path.resolve()
            if not resolved.is_relative_to(self._root):
                raise media_error("MEDIA_PATH_FORBIDDEN", "the media path leads out of the folder of the data")
            return resolved if resolved.is_file() and os.access(resolved, os.R_OK) else None
        except (OSError, RuntimeError):  # a name that is too long, a cycle of links
            return None


def relative_path(name: str) -> PurePosixPath:
    """A path that a row names. Raises MEDIA_PATH_FORBIDDEN."""
    if "://" in name or "\\" in name or "\0" in name:
        message = "a media path must be relative to the data file, and URLs are not fetched"
        raise media_error("MEDIA_PATH_FORBIDDEN", message)
    relative = PurePosixPath(name)
    if relative.is_absolute() or ".." in relative.parts:
        raise media_error("MEDIA_PATH_FORBIDDEN", "the media path leaves the folder of the data")
    return relative


class MediaFiles:
    """The media of one data file's rows."""

    def __init__(self, source: SourceFile, *, keep: Keeper) -> None:
        self._paths, self._keep = MediaPaths(source), keep
        self._visits: dict[tuple[str, int], Visit] = {}
        self.members: Mapping[str, bytes] = {}
        """The members of the row's sample, by their names, if it comes from an archive."""
        self.from_samples = 0
        """How many sounds of the row were samples, which are written as WAV."""

    def store(self, found: Any, modality: int) -> content_pb2.Media:
        """Keeps one medium and returns its reference. Raises the MEDIA_* reasons."""
        if isinstance(found, MAPPINGS):
            return self._store_struct(found, modality)
        if isinstance(found, bytes):
            return self._keep.put(found, modality)
        if isinstance(found, str) and found.startswith("data:"):
            return self._keep.put(_of_data_url(found), modality)
        if isinstance(found, str) and found.strip():
            return self._store_file(found.strip(), modality)
        raise media_error("MEDIA_MISSING", f"the value is {described(found)}, and a path or bytes are taken")

    def take(self) -> list[Visit]:
        """The files that rows named since the last call."""
        visits, self._visits = list(self._visits.values()), {}
        return visits

    def _store_file(self, name: str, modality: int) -> content_pb2.Media:
        if (member := self.members.get(name)) is not None:
            return self._keep.put(member, modality)
        relative_path(name)
        self._visits[name, modality] = self._paths.visit(name, modality)
        path = self._paths.find(name, modality)
        try:
            if is_pointer(path):
                raise media_error("MEDIA_MISSING", f"the media file {POINTER}")
            return self._keep.put_file(path, modality)
        except (FileNotFoundError, PermissionError) as error:
            raise media_error("MEDIA_MISSING", f"the media file cannot be read: {error.strerror}") from error

    def _store_struct(self, found: Mapping[str, Any], modality: int) -> content_pb2.Media:
        if (data := found.get("bytes")) is not None:
            return self._keep.put(_to_bytes(data), modality)
        if found.get("array") is not None:
            self.from_samples += 1
            return self._keep.put(_to_wav(found), modality)
        return self.store(found.get("path"), modality)


def _to_bytes(found: Any) -> bytes:
    """Bytes as they are, or as the list of numbers that JSON has in their place."""
    if isinstance(found, bytes):
        return found
    try:
        if isinstance(found, list):
            return bytes(found)
    except (TypeError, ValueError, OverflowError):
        pass
    raise media_error("MEDIA_UNDECODABLE", f"`bytes` holds {described(found)}, and bytes are taken")


def _of_data_url(found: str) -> bytes:
    """The bytes within a `data:` URL."""
    head, _, data = found.partition(",")
    try:
        if head.endswith(";base64"):
            return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        pass
    raise media_error("MEDIA_UNDECODABLE", "the `data:` URL is not base64, which is taken")


def _to_wav(found: Mapping[str, Any]) -> bytes:
    """Samples in a row as a WAV file, mono, with integers scaled by their type."""
    rate_hz = as_integer(found.get("sampling_rate"))
    if rate_hz is None:
        there = described(found.get("sampling_rate"))
        message = f"the rate of the samples, `sampling_rate`, is {there}, and a whole number of hertz is taken"
        raise media_error("MEDIA_UNDECODABLE", message)
    try:
        samples = mono_samples(found["array"])
    except (TypeError, ValueError, KeyError, OverflowError) as error:
        raise media_error("MEDIA_UNDECODABLE", f"the samples in the row are not audio: {error}") from error
    if not 0 < rate_hz <= MAX_RATE_HZ:
        message = f"the samples have a rate of {rate_hz} hertz, and 1 to {MAX_RATE_HZ} are taken"
        raise media_error("MEDIA_UNDECODABLE", message)
    return write_audio(samples, rate_hz)
