"""Media in files of a service on the same machine: opened without following links, read and verified.

A file of media is replaced, never changed, so the digest of a range of it is computed once in a process: a reader that
comes again, as a trainer does in each epoch, runs at the speed of the page cache.
"""

import hashlib
import os
import stat
import threading
from collections import OrderedDict
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

from omnialign.v1.data_service_pb2 import MediaLink

MAX_OPEN_FILES = 256
MAX_VERIFIED = 2_000_000
"""Ranges that are remembered as verified; beyond that, those in the files used longest ago are forgotten."""
Identity = tuple[int, int, int, int]
"""Device, inode, time of the last change in nanoseconds, size in bytes."""


class MediaFiles:
    """The files that links lead to. Safe for concurrent threads."""

    def __init__(self) -> None:
        self._handles: OrderedDict[tuple[str, str], int] = OrderedDict()
        self._verified: OrderedDict[Identity, set[int]] = OrderedDict()
        """For each file, the hashes of (digest, offset, size) that were verified."""
        self._num_verified = 0
        self._lock = threading.Lock()  # a handle must not be closed while another thread reads from it

    def read(self, link: MediaLink, *, sha256: str, size_bytes: int) -> bytes | None:
        """The bytes of a medium; None if the file cannot be read, or holds other bytes."""
        offset = link.offset
        try:
            with self._lock:
                handle = self._handle(link.url, link.path)
                found = os.fstat(handle)
                data = os.pread(handle, size_bytes, offset)
        except (OSError, ValueError, OverflowError):
            return None
        identity, key = (found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size), hash((sha256, offset))
        if key in self._verified.get(identity, ()) and len(data) == size_bytes:
            return data
        if hashlib.sha256(data).hexdigest() != sha256:
            return None
        with self._lock:
            self._remember(identity, key)
        return data

    def close(self) -> None:
        """Closes the files."""
        with self._lock:
            while self._handles:
                os.close(self._handles.popitem()[1])

    def _handle(self, folder: str, path: str) -> int:
        """An open handle of a file. Raises OSError, and ValueError for a link that leads elsewhere."""
        key = (folder, path)
        if (handle := self._handles.get(key)) is not None:
            self._handles.move_to_end(key)
            return handle
        handle = self._handles[key] = _open_below(folder, path)
        if len(self._handles) > MAX_OPEN_FILES:
            os.close(self._handles.popitem(last=False)[1])
        return handle

    def _remember(self, identity: Identity, key: int) -> None:
        known = self._verified.setdefault(identity, set())
        self._verified.move_to_end(identity)
        self._num_verified += key not in known
        known.add(key)
        while self._num_verified > MAX_VERIFIED and len(self._verified) > 1:
            self._num_verified -= len(self._verified.popitem(last=False)[1])


def _open_below(folder: str, path: str) -> int:
    """A handle of the file, reached from the folder step by step without following a symbolic link.

    Raises OSError, and ValueError for what is not a regular file below a local folder.
    """
    parts, url = PurePosixPath(path).parts, urlsplit(folder)
    if url.scheme != "file" or url.netloc or not parts or ".." in parts or parts[0] == "/":
        raise ValueError("not a file in a folder")
    handle = os.open(unquote(url.path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    for index, part in enumerate(parts):
        is_folder = os.O_DIRECTORY if index < len(parts) - 1 else os.O_NONBLOCK
        try:
            below = os.open(part, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | is_folder, dir_fd=handle)
        finally:
            os.close(handle)
        handle = below
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise ValueError("not a file")
    return handle
