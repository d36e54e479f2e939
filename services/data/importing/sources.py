"""Finding the data files of an import, and what their names say: subtask and split."""

import re
from dataclasses import dataclass
from pathlib import Path

from omnialign.errors import InvalidArgument

SUFFIXES = (".parquet", ".json", ".jsonl")
# Longest first: `text-image-to-text` is also the beginning of `text-image-to-text-image`.
NAMES = {
    "text-image-to-text-image": "ti2ti", "text-image-to-text": "ti2t", "text-audio-to-text": "ta2t",
    "text-video-to-text": "tv2t", "text-to-text": "t2t", "text-to-image": "t2i", "text-to-audio": "t2a",
    "text-to-video": "t2v",
}  # fmt: skip
SUBTASKS = frozenset(NAMES.values())
# The words of file names that are splits; `val` and `validation` stay as they are written.
SPLITS = {
    "train": "train", "training": "train", "prompts": "prompts", "test": "test", "val": "val", "valid": "val",
    "validation": "validation", "dev": "dev",
}  # fmt: skip
MAX_DEPTH = 4


@dataclass(frozen=True)
class SourceFile:
    """A data file of an import. Media paths in it are looked for in its folder and beside it, never outside `root`."""

    path: Path
    root: Path
    subtask: str
    split: str


def find_files(source: Path, *, subtask: str = "", split: str = "") -> list[SourceFile]:
    """The data files at `source`, in order of name.

    Raises SOURCE_MISSING, SOURCE_EMPTY, SUBTASK_UNKNOWN (where neither a name nor `subtask` tells).
    """
    if subtask and subtask not in SUBTASKS:
        raise _refusal("SUBTASK_UNKNOWN", f"{subtask} is not one of {', '.join(sorted(SUBTASKS))}.", source)
    if not source.exists():
        raise _refusal("SOURCE_MISSING", f"There is no {source}.", source)
    root = source if source.is_dir() else source.parent
    paths = sorted(_data_files(source)) if source.is_dir() else [source]
    if not paths:
        raise _refusal("SOURCE_EMPTY", f"{source} holds no {', '.join(SUFFIXES)} file.", source)
    return [_source_file(path, root, subtask, split) for path in paths]


def subtask_of(path: Path, root: Path) -> str:
    """The subtask that the file's name tells, or else the nearest folder's; "" when none does."""
    for name in (path.stem, *_folders(path, root)):
        plain = re.sub(r"[\s_.]+", "-", name.lower())
        words = plain.split("-")
        for long_name, code in NAMES.items():
            if long_name in plain or code in words:
                return code
    return ""


def split_of(path: Path, root: Path) -> str:
    """The split that the file's name tells, or else the nearest folder's; "" when none does."""
    words = re.split(r"[\s_.-]+", path.stem.lower())  # a folder must be named just so: `test-run` is no split
    for word in (*words, *(name.lower() for name in _folders(path, root))):
        if word in SPLITS:
            return SPLITS[word]
    return ""


def _source_file(path: Path, root: Path, subtask: str, split: str) -> SourceFile:
    found = subtask_of(path, root) or subtask
    if not found:
        message = f"The name of {path.name} does not tell its subtask: name it so, or give the subtask."
        raise _refusal("SUBTASK_UNKNOWN", message, path)
    if path.suffix.lower() not in SUFFIXES:
        raise _refusal("SOURCE_UNSUPPORTED", f"{path.name} is none of {', '.join(SUFFIXES)}.", path)
    return SourceFile(path=path, root=root, subtask=found, split=split_of(path, root) or split or "train")


def _folders(path: Path, root: Path) -> list[str]:
    """Names of the folders from the file's up to the root."""
    inside = path.relative_to(root).parent.parts
    return [*reversed(inside), root.name]


def _data_files(root: Path) -> list[Path]:
    found = [path for path in root.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file()]
    inside = [path for path in found if len(path.relative_to(root).parts) <= MAX_DEPTH]
    return [path for path in inside if not any(part.startswith((".", "_")) for part in path.relative_to(root).parts)]


def _refusal(reason: str, message: str, path: Path) -> InvalidArgument:
    return InvalidArgument(message, reason=reason, metadata={"path": str(path)})
