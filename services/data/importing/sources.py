"""The data files of an import, whose names may tell subtask, split and format.

A source is a file, a folder, or a pattern of files. What else lies in a folder is skipped, and listed with why; media
are not, since rows name them.
"""

import itertools
import mimetypes
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omnialign.errors import InvalidArgument
from services.data.importing.benchmarks.formats import FORMATS as BENCHMARKS
from services.data.importing.benchmarks.formats import SUBTASK, subtask_in
from services.data.importing.columns import PROMPT, has
from services.data.importing.formats.registry import ALIGN_ANYTHING, FORMATS, TELLING, told_by_names, told_otherwise
from services.data.importing.json_rows import READ_CHARACTERS, read_json_rows
from services.data.importing.patterns import is_pattern, matches

TABLES = (".parquet", ".arrow")
ARCHIVES = (".tar", ".tar.gz", ".tgz")
SUFFIXES = (*TABLES, ".json", ".jsonl", *ARCHIVES)
# Those that the table of the system may lack.
MEDIA_SUFFIXES = frozenset(
    {".ac3", ".aif", ".aiff", ".amr", ".avif", ".flac", ".heic", ".heif", ".jp2", ".jxl", ".m4a", ".m4v", ".mkv",
     ".mka", ".mts", ".oga", ".ogg", ".ogv", ".opus", ".ppm", ".tga", ".ts", ".wav", ".webm", ".webp", ".wma", ".wmv"}
)  # fmt: skip
POINTERS = (b"version https://git-lfs.github.com/spec/", b"# xet version ")
"""How files of a cloned repository begin that only say where their bytes are: those of Git LFS, which Hugging Face
writes for Xet, too, and those of git-xet."""
POINTER = "is a pointer of Git LFS or Xet, not the data: run `git lfs pull` in the clone"
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
REQUEST, NAME = "the request", "its name"
"""What tells a format before the columns do."""
MAX_DEPTH = 4
MAX_NAMED, MAX_NAMED_COLUMNS = 5, 12


@dataclass(frozen=True)
class SourceFile:
    """A data file of an import. Media paths in it are resolved in its folder and next to it, never outside `root`."""

    path: Path
    root: Path
    subtask: str
    """What the name or the request tells; "" if neither does. The rows of most formats tell more."""
    split: str
    format: str = ""
    """One of `FORMATS`; "" for the subsets of align-anything-200k."""
    told_by: str = ""
    """What tells the format; "" if the columns are still to."""

    def otherwise(self, row: Mapping[str, Any]) -> tuple[str, str]:
        """Another format that a row is in, and how its columns tell; "" if none, or if it does not matter."""
        is_by_columns = self.format and self.told_by not in ("", REQUEST, NAME)
        return told_otherwise(self.format, row) if is_by_columns else ("", "")

    @property
    def suffix(self) -> str:
        """What the file is, by its name: one of `SUFFIXES`, with `.tar` for all of `ARCHIVES`."""
        return ".tar" if is_archive(self.path) else self.path.suffix.lower()

    @property
    def name(self) -> str:
        """The path within the source."""
        return self.path.relative_to(self.root).as_posix()


@dataclass(frozen=True)
class Sources:
    """What there is to import, and what is not data."""

    files: tuple[SourceFile, ...]
    skipped: Mapping[str, str]
    """For each file that is skipped, why."""


def find_files(source: Path, *, subtask: str = "", split: str = "", form: str = "") -> Sources:
    """The data files at `source`, sorted by name. `form` is the format of them all; if "", names may tell it.

    Raises FORMAT_UNKNOWN, SOURCE_MISSING, SOURCE_EMPTY, SOURCE_UNSUPPORTED, SOURCE_IS_POINTER, SUBTASK_UNKNOWN, and the
    reasons of `patterns.matches`.
    """
    form = form.strip().lower().replace("-", "_")
    if form and form not in (*FORMATS, ALIGN_ANYTHING):
        there = ", ".join(sorted([*FORMATS, ALIGN_ANYTHING]))
        raise _refusal("FORMAT_UNKNOWN", f"{form} is not one of {there}.", source)
    if subtask and not (subtask in SUBTASKS if form == ALIGN_ANYTHING else SUBTASK.fullmatch(subtask)):
        raise _refusal("SUBTASK_UNKNOWN", f"{subtask} is not one of {', '.join(sorted(SUBTASKS))}.", source)
    if is_pattern(source):
        folder, paths = matches(source)
        return Sources(tuple(_source_file(path, folder, subtask, split, form) for path in paths), {})
    if not source.exists():
        raise _refusal("SOURCE_MISSING", f"{source} does not exist.", source)
    if not source.is_dir():
        return Sources((_source_file(source, source.parent, subtask, split, form),), {})
    reasons = {path: _why_skipped(path, source, form) for path in sorted(_visible_files(source))}
    skipped = {path.relative_to(source).as_posix(): why for path, why in reasons.items() if why}
    paths = [path for path, why in reasons.items() if why == ""]
    if any(map(is_archive, paths)) and not all(map(is_archive, paths)):
        archives = [path for path in paths if is_archive(path)]
        why = "is an archive beside other data: unpack it if it holds their media, or import it by its name"
        skipped |= {path.relative_to(source).as_posix(): why for path in archives}
        paths = [path for path in paths if path not in archives]
    pointers = [path for path, why in reasons.items() if why == POINTER]
    if pointers and not paths:
        raise _is_pointer(pointers[0], others=len(pointers) - 1)
    if not paths:
        there = "".join(f"; {name} {why}" for name, why in itertools.islice(skipped.items(), MAX_NAMED))
        raise _refusal("SOURCE_EMPTY", f"{source} has no {', '.join(SUFFIXES)} file with rows{there}.", source)
    return Sources(tuple(_source_file(path, source, subtask, split, form) for path in paths), skipped)


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


def _source_file(path: Path, root: Path, subtask: str, split: str, form: str) -> SourceFile:
    folders = _folders(path, root)
    told_by, form = (REQUEST, form) if form else (NAME, told_by_names(path, folders))
    if form in BENCHMARKS:
        found = subtask_in(path, folders) or subtask or ("" if FORMATS[form].needs_task else "t2t")
        if not found or found == "?":
            raise subtask_unknown(path)
    else:
        found = subtask_of(path, root) or subtask
    if not path.name.lower().endswith(SUFFIXES):
        raise _refusal("SOURCE_UNSUPPORTED", f"{path.name} is none of {', '.join(SUFFIXES)}.", path)
    if is_pointer(path):
        raise _is_pointer(path, others=0)
    split = split_of(path, root) or split or ("test" if form in BENCHMARKS else "train")
    known = form if form in FORMATS else ""
    return SourceFile(path=path, root=root, subtask=found, split=split, format=known, told_by=told_by if form else "")


def subtask_unknown(path: Path, *, columns: Sequence[str] = ()) -> InvalidArgument:
    """The error for a file whose subtask neither its name, nor its columns, if they count, nor the request says."""
    message = f"The name of {path.name} does not say its subtask: rename it, or say it with `--subtask`."
    if columns:
        there = ", ".join(columns[:MAX_NAMED_COLUMNS])[:400] + (", ..." if len(columns) > MAX_NAMED_COLUMNS else "")
        message = (
            f"The columns of {path.name} tell no format: {there}. Say what they are with `--map prompt=COLUMN`, and "
            "the format with `--format`; or if they are those of align-anything, say the subtask with `--subtask` or "
            "in the name of the file."
        )
    return _refusal("SUBTASK_UNKNOWN", message, path)


def _folders(path: Path, root: Path) -> list[str]:
    """The names of the folders from the file up to the root."""
    inside = path.relative_to(root).parent.parts
    return [*reversed(inside), root.name]


def _visible_files(root: Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith((".", "_"))]
        yield from (Path(folder, name) for name in names if not name.startswith((".", "_")))


def _why_skipped(path: Path, root: Path, form: str) -> str | None:
    """Why a file is not read; "" for a data file, None for media."""
    if not path.name.lower().endswith(SUFFIXES):
        kind = (mimetypes.guess_type(path.name, strict=False)[0] or "").partition("/")[0]
        is_media = kind in ("image", "audio", "video") or path.suffix.lower() in MEDIA_SUFFIXES
        return None if is_media else f"is none of {', '.join(SUFFIXES)}"
    if not path.is_file():
        return "is not a regular file"
    if len(path.relative_to(root).parts) > MAX_DEPTH:
        return f"lies deeper than {MAX_DEPTH - 1} folders"
    if is_pointer(path):
        return POINTER
    if path.suffix.lower() == ".json" and _is_settings(path):
        return "is one object without a prompt, not rows"
    folders = _folders(path, root)
    if (form or told_by_names(path, folders)) in BENCHMARKS and subtask_in(path, folders) == "?":
        return "is of a task with something other than text, images, audio and video"
    return ""


def is_archive(path: Path) -> bool:
    """Whether a file is a tar file, by its name."""
    return path.name.lower().endswith(ARCHIVES)


def is_pointer(path: Path) -> bool:
    """Whether a file only says where Git LFS or Xet keeps the bytes. Raises OSError."""
    with path.open("rb") as file:
        return file.read(max(map(len, POINTERS))).startswith(POINTERS)


def _is_pointer(path: Path, *, others: int) -> InvalidArgument:
    more = f", and so {'is one other file' if others == 1 else f'are {others} other files'}" if others else ""
    return _refusal("SOURCE_IS_POINTER", f"{path.name} {POINTER}{more}.", path)


def _is_settings(path: Path) -> bool:
    """Whether a JSON file holds one object that is no row, such as `dataset_infos.json`."""
    try:
        values = list(itertools.islice(read_json_rows(path), 2))
        with path.open(encoding="utf-8-sig") as file:
            is_list = file.read(READ_CHARACTERS).lstrip().startswith("[")
    except (InvalidArgument, OSError, UnicodeDecodeError):
        return False  # the import says what is wrong with it
    return (
        not is_list and len(values) == 1 and not (isinstance(values[0], dict) and has(values[0], (*PROMPT, *TELLING)))
    )


def _refusal(reason: str, message: str, path: Path) -> InvalidArgument:
    return InvalidArgument(message, reason=reason, metadata={"path": str(path)})
