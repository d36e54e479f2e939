"""Files that are read again when they change: Secrets and ConfigMaps are replaced while a pod runs.

A file that can no longer be read, or whose new content is wrong, changes nothing but the log: better yesterday's
tokens than none. The file is checked when its content is asked for, at most once a second, so there is no background
task to stop.
"""

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from omnialign.errors import OmnialignError

T = TypeVar("T")

LOOK_EVERY_SECONDS = 1.0

_log = logging.getLogger(__name__)

FileVersion = tuple[int, int, int]


class WatchedFile(Generic[T]):
    """The content of a file as `parse` reads it. Construction raises OSError and what `parse` raises."""

    def __init__(self, path: Path, parse: Callable[[str], T]) -> None:
        self._path = path
        self._parse = parse
        self._version = file_version(path)
        self._value = parse(path.read_text("utf-8"))
        self._looked = time.monotonic()

    def current(self) -> T:
        """The newest valid content."""
        now = time.monotonic()
        if now - self._looked >= LOOK_EVERY_SECONDS:
            self._looked = now
            self._look()
        return self._value

    def _look(self) -> None:
        try:
            found = file_version(self._path)
            if found == self._version:
                return
            self._value = self._parse(self._path.read_text("utf-8"))
            self._version = found
        except (OSError, ValueError, OmnialignError) as error:
            _log.error("'%s' is invalid, so its previous content stays in force: %s", self._path, error)
        else:
            _log.info("'%s' was read again", self._path)


def file_version(path: Path) -> FileVersion:
    """A value that differs whenever the file has changed; links are followed. Raises OSError."""
    found = os.stat(path)  # noqa: PTH116  the same call, without a Path in between
    return found.st_mtime_ns, found.st_size, found.st_ino
