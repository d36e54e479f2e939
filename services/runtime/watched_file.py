"""Files that are read again when they change: Secrets and ConfigMaps are replaced while a pod runs.

A file that cannot be read any more, or whose new content is wrong, changes nothing but the log: better yesterday's
tokens than none. The file is looked at, at most once a second, when its content is asked for; there is no task to end.
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
    """What `parse` makes of a file. The first reading raises what `parse` or the system raises."""

    def __init__(self, path: Path, parse: Callable[[str], T]) -> None:
        self._path = path
        self._parse = parse
        self._version = file_version(path)
        self._value = parse(path.read_text("utf-8"))
        self._looked = time.monotonic()

    def current(self) -> T:
        """The newest good content."""
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
            _log.error("'%s' is not what it should be; its former content stays in force: %s", self._path, error)
        else:
            _log.info("'%s' was read again", self._path)


def file_version(path: Path) -> FileVersion:
    """What changes when the file does, links followed. Raises OSError."""
    found = os.stat(path)  # noqa: PTH116  the same call, without a Path in between
    return found.st_mtime_ns, found.st_size, found.st_ino
