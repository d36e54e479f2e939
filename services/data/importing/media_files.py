"""Where an imported row's media come from: bytes in the row, samples in the row, or a path beside the data file.

A path in the data is never trusted: it must name a regular file inside the import's own folder after all links are
followed.
"""

import os
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from omnialign.errors import InvalidArgument
from omnialign.media import write_audio
from omnialign.v1 import content_pb2
from services.data.importing.sources import SourceFile
from services.data.media_store import Claim, MediaStore

FOLDERS = {
    content_pb2.MODALITY_IMAGE: ("images", "image", "media"),
    content_pb2.MODALITY_AUDIO: ("audios", "audio", "media"),
    content_pb2.MODALITY_VIDEO: ("videos", "video", "media"),
}


def media_error(reason: str, message: str) -> InvalidArgument:
    """The error for media of a row that cannot be taken."""
    return InvalidArgument(message, reason=reason)


class MediaFiles:
    """Stores the media that the rows of one file name. Blocking; safe for many threads."""

    def __init__(self, source: SourceFile, *, store: MediaStore) -> None:
        self._store, self._root = store, source.root.resolve()
        parent = source.path.parent
        self._bases = (parent, parent.parent) if parent.resolve() != self._root else (parent,)

    def take(self, found: Any, modality: int) -> content_pb2.Media:
        """Stores one medium and gives its reference. Raises the MEDIA_* reasons."""
        claim = Claim(modality=modality)
        if isinstance(found, Mapping):
            return self._take_struct(found, modality)
        if isinstance(found, bytes):
            return self._store.put(found, claim=claim)[0]
        if isinstance(found, str) and found.strip():
            return self._store.put_file(self._locate(found.strip(), modality), claim=claim)[0]
        raise media_error("MEDIA_MISSING", "The row has no media where its schema has some.")

    def _take_struct(self, found: Mapping[str, Any], modality: int) -> content_pb2.Media:
        if found.get("bytes") is not None:
            return self._store.put(bytes(found["bytes"]), claim=Claim(modality=modality))[0]
        if found.get("array") is not None:
            return self._store.put(_wav(found), claim=Claim(modality=modality))[0]
        return self.take(found.get("path"), modality)

    def _locate(self, name: str, modality: int) -> Path:
        if "://" in name or "\\" in name or "\0" in name:
            raise media_error("MEDIA_PATH_FORBIDDEN", "A media path is relative to the data file; nothing is fetched.")
        relative = PurePosixPath(name)
        if relative.is_absolute() or ".." in relative.parts:
            raise media_error("MEDIA_PATH_FORBIDDEN", f"The media path {name} leaves the folder of the data.")
        for base in self._bases:
            for folder in ("", *FOLDERS[content_pb2.Modality.ValueType(modality)]):
                path = self._inside(base / folder / relative)
                if path is not None:
                    return path
        raise media_error("MEDIA_MISSING", f"There is no media file {name}.")

    def _inside(self, path: Path) -> Path | None:
        """The file itself, if there is one. Raises MEDIA_PATH_FORBIDDEN when a link leads out of the folder."""
        try:
            resolved = path.resolve()
            if not resolved.is_relative_to(self._root):
                raise media_error("MEDIA_PATH_FORBIDDEN", f"The media path {path.name} leads out of the data's folder.")
            return resolved if resolved.is_file() and os.access(resolved, os.R_OK) else None
        except (OSError, RuntimeError):  # a name too long, a circle of links
            return None


def _wav(found: Mapping[str, Any]) -> bytes:
    """Samples in a row as a WAV file."""
    try:
        samples = np.asarray(found["array"], dtype=np.float32)
        rate_hz = int(found["sampling_rate"])
    except (TypeError, ValueError, KeyError) as error:
        raise media_error("MEDIA_UNDECODABLE", f"The samples in the row are not a sound: {error}.") from error
    if samples.ndim == 2:  # channels first, as decoders give them
        samples = samples.mean(axis=0 if samples.shape[0] <= samples.shape[1] else 1)
    if samples.ndim != 1 or not samples.size or not np.isfinite(samples).all() or not 0 < rate_hz <= 768_000:
        raise media_error("MEDIA_UNDECODABLE", "The samples in the row are not a sound.")
    return write_audio(samples, rate_hz)
