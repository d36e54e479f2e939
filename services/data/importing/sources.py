"""The files an import reads: its data files, whose names tell subtask and split, and the media that rows refer to.

A path in the data is never trusted: it must name a regular file inside the import's own folder after all links are
followed.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from omnialign.errors import InvalidArgument
from omnialign.media import write_audio
from omnialign.v1 import content_pb2
from services.data.media_store import Claim, MediaStore

SUFFIXES = (".parquet", ".json", ".jsonl")
# Longest first: `text-image-to-text` is a prefix of `text-image-to-text-image`.
NAMES = {
    "text-image-to-text-image": "ti2ti", "text-image-to-text": "ti2t", "text-audio-to-text": "ta2t",
    "text-video-to-text": "tv2t", "text-to-text": "t2t", "text-to-image": "t2i", "text-to-audio": "t2a",
    "text-to-video": "t2v",
}  # fmt: skip
SUBTASKS = frozenset(NAMES.values())
# The words in file names that are splits; `val` and `validation` stay as written.
SPLITS = {
    "train": "train", "training": "train", "prompts": "prompts", "test": "test", "val": "val", "valid": "val",
    "validation": "validation", "dev": "dev",
}  # fmt: skip
MAX_DEPTH = 4


@dataclass(frozen=True)
class SourceFile:
    """A data file of an import. Media paths in it are resolved in its folder and next to it, never outside `root`."""

    path: Path
    root: Path
    subtask: str
    split: str


def find_files(source: Path, *, subtask: str = "", split: str = "") -> list[SourceFile]:
    """The data files at `source`, sorted by name.

    Raises SOURCE_MISSING, SOURCE_EMPTY, SOURCE_UNSUPPORTED, SUBTASK_UNKNOWN (if neither a name nor `subtask` says).
    """
    if subtask and subtask not in SUBTASKS:
        raise _refusal("SUBTASK_UNKNOWN", f"{subtask} is not one of {', '.join(sorted(SUBTASKS))}.", source)
    if not source.exists():
        raise _refusal("SOURCE_MISSING", f"{source} does not exist.", source)
    root = source if source.is_dir() else source.parent
    paths = sorted(_data_files(source)) if source.is_dir() else [source]
    if not paths:
        raise _refusal("SOURCE_EMPTY", f"{source} has no {', '.join(SUFFIXES)} file.", source)
    return [_source_file(path, root, subtask, split) for path in paths]


def subtask_of(path: Path, root: Path) -> str:
    """The subtask in the name of the file, or else of the nearest folder; "" if there is none."""
    for name in (path.stem, *_folders(path, root)):
        plain = re.sub(r"[\s_.]+", "-", name.lower())
        words = plain.split("-")
        for long_name, code in NAMES.items():
            if long_name in plain or code in words:
                return code
    return ""


def split_of(path: Path, root: Path) -> str:
    """The split in the name of the file, or else of the nearest folder; "" if there is none."""
    words = re.split(r"[\s_.-]+", path.stem.lower())  # folders must match as a whole: `test-run` is no split
    for word in (*words, *(name.lower() for name in _folders(path, root))):
        if word in SPLITS:
            return SPLITS[word]
    return ""


def _source_file(path: Path, root: Path, subtask: str, split: str) -> SourceFile:
    found = subtask_of(path, root) or subtask
    if not found:
        message = f"The name of {path.name} does not say its subtask: rename it, or set `subtask` in the request."
        raise _refusal("SUBTASK_UNKNOWN", message, path)
    if path.suffix.lower() not in SUFFIXES:
        raise _refusal("SOURCE_UNSUPPORTED", f"{path.name} is none of {', '.join(SUFFIXES)}.", path)
    return SourceFile(path=path, root=root, subtask=found, split=split_of(path, root) or split or "train")


def _folders(path: Path, root: Path) -> list[str]:
    """The names of the folders from the file up to the root."""
    inside = path.relative_to(root).parent.parts
    return [*reversed(inside), root.name]


def _data_files(root: Path) -> list[Path]:
    found = [path for path in root.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file()]
    inside = [path for path in found if len(path.relative_to(root).parts) <= MAX_DEPTH]
    return [path for path in inside if not any(part.startswith((".", "_")) for part in path.relative_to(root).parts)]


def _refusal(reason: str, message: str, path: Path) -> InvalidArgument:
    return InvalidArgument(message, reason=reason, metadata={"path": str(path)})


FOLDERS = {
    content_pb2.MODALITY_IMAGE: ("images", "image", "media"),
    content_pb2.MODALITY_AUDIO: ("audios", "audio", "media"),
    content_pb2.MODALITY_VIDEO: ("videos", "video", "media"),
}


def media_error(reason: str, message: str) -> InvalidArgument:
    """The error for media of a row that cannot be imported."""
    return InvalidArgument(message, reason=reason)


class MediaFiles:
    """Stores the media that the rows of one file hold or refer to. Blocking; safe for concurrent threads."""

    def __init__(self, source: SourceFile, *, store: MediaStore) -> None:
        self._store, self._root = store, source.root.resolve()
        parent = source.path.parent
        self._bases = (parent, parent.parent) if parent.resolve() != self._root else (parent,)

    def store(self, found: Any, modality: int) -> content_pb2.Media:
        """Stores one media object and returns its reference. Raises the MEDIA_* reasons."""
        claim = Claim(modality=modality)
        if isinstance(found, Mapping):
            return self._store_struct(found, modality)
        if isinstance(found, bytes):
            return self._store.put(found, claim=claim)[0]
        if isinstance(found, str) and found.strip():
            return self._store.put_file(self._locate(found.strip(), modality), claim=claim)[0]
        raise media_error("MEDIA_MISSING", "The row lacks media that its subtask requires.")

    def _store_struct(self, found: Mapping[str, Any], modality: int) -> content_pb2.Media:
        if found.get("bytes") is not None:
            return self._store.put(bytes(found["bytes"]), claim=Claim(modality=modality))[0]
        if found.get("array") is not None:
            return self._store.put(_to_wav(found), claim=Claim(modality=modality))[0]
        return self.store(found.get("path"), modality)

    def _locate(self, name: str, modality: int) -> Path:
        if "://" in name or "\\" in name or "\0" in name:
            raise media_error(
                "MEDIA_PATH_FORBIDDEN", "A media path must be relative to the data file; URLs are not fetched."
            )
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
        """The file, links followed; None if it does not exist. Raises MEDIA_PATH_FORBIDDEN if a link leads outside."""
        try:
            resolved = path.resolve()
            if not resolved.is_relative_to(self._root):
                raise media_error("MEDIA_PATH_FORBIDDEN", f"The media path {path.name} leads out of the data's folder.")
            return resolved if resolved.is_file() and os.access(resolved, os.R_OK) else None
        except (OSError, RuntimeError):  # a name that is too long, a cycle of links
            return None


def _to_wav(found: Mapping[str, Any]) -> bytes:
    """Samples in a row as a WAV file. They are mono, or stereo of shape (channels, samples) or (samples, channels)."""
    try:
        samples = np.asarray(found["array"], dtype=np.float32)
        rate_hz = int(found["sampling_rate"])
    except (TypeError, ValueError, KeyError) as error:
        raise media_error("MEDIA_UNDECODABLE", f"The samples in the row are not audio: {error}.") from error
    if samples.ndim == 2:  # the shorter axis is the channels; they are averaged to mono
        samples = samples.mean(axis=0 if samples.shape[0] <= samples.shape[1] else 1)
    if samples.ndim != 1 or not samples.size or not np.isfinite(samples).all() or not 0 < rate_hz <= 768_000:
        raise media_error("MEDIA_UNDECODABLE", "The samples in the row are not audio.")
    return write_audio(samples, rate_hz)
