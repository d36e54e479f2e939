"""Sources that are patterns: `data/*.parquet`, `shard-{000..009}.tar`, `{train,test}.jsonl`.

`*`, `?` and `[a-z]` stand for what is there, `**` for folders at any depth; braces stand for each of their values,
which must all be there.
"""

import itertools
import re
from collections.abc import Iterator
from pathlib import Path

from omnialign.errors import InvalidArgument

MAX_FILES = 10_000
MAGIC = re.compile(r"[*?\[{]")
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d{1,9})\.\.(\d{1,9})")


def is_pattern(path: Path) -> bool:
    """Whether a path that does not exist is a pattern."""
    return MAGIC.search(str(path)) is not None and not path.exists()


def matches(pattern: Path) -> tuple[Path, list[Path]]:
    """The folder that all matches are in, and the files that match, sorted.

    Raises SOURCE_MISSING, and SOURCE_PATTERN_INVALID for a pattern that stands for too many files.
    """
    folder = Path(*itertools.takewhile(lambda part: not MAGIC.search(part), pattern.parts))
    found = dict[Path, None]()
    for expanded in _expanded(pattern.relative_to(folder).as_posix(), pattern):
        there = [path for path in _glob(folder, expanded) if _is_inside(path, folder)]
        if not there:
            message = f"{folder / expanded} matches no file."
            raise InvalidArgument(message, reason="SOURCE_MISSING", metadata={"path": str(folder / expanded)})
        found |= dict.fromkeys(there)
        if len(found) > MAX_FILES:
            raise _too_many(pattern)
    return folder, sorted(found)


def _glob(folder: Path, pattern: str) -> Iterator[Path]:
    if not re.search(r"[*?\[]", pattern):
        yield folder / pattern
        return
    try:
        yield from folder.glob(pattern)
    except (ValueError, NotImplementedError) as error:  # pathlib raises the second for an absolute pattern
        raise InvalidArgument(
            f"The pattern {pattern!r} is not valid: {error}.", reason="SOURCE_PATTERN_INVALID"
        ) from error


def _is_inside(path: Path, folder: Path) -> bool:
    """Whether a match is a visible file that no link leads out of the folder."""
    names = path.relative_to(folder).parts
    return path.is_file() and path.resolve().is_relative_to(folder.resolve()) and not any(n[0] in "._" for n in names)


def _expanded(text: str, pattern: Path) -> list[str]:
    """The text with each value of its braces."""
    found = [text]
    while any(_BRACES.search(one) for one in found):
        found = [made for one in found for made in _once(one, pattern)]
        if len(found) > MAX_FILES:
            raise _too_many(pattern)
    return found


def _once(text: str, pattern: Path) -> Iterator[str]:
    """The text with each value of its first braces; itself without any."""
    if (braces := _BRACES.search(text)) is None:
        yield text
        return
    values = braces[1].split(",")
    if span := _RANGE.fullmatch(braces[1]):
        first, last = int(span[1]), int(span[2])
        if abs(last - first) >= MAX_FILES:
            raise _too_many(pattern)
        step = 1 if first <= last else -1
        values = [str(number).zfill(len(span[1])) for number in range(first, last + step, step)]
    yield from (text[: braces.start()] + value + text[braces.end() :] for value in values)


def _too_many(pattern: Path) -> InvalidArgument:
    message = f"{pattern} stands for more than {MAX_FILES:,} files: import them in parts."
    return InvalidArgument(message, reason="SOURCE_PATTERN_INVALID", metadata={"path": str(pattern)})
