"""Media in files of a service on the same machine: opened without following links, read and verified.

A file of media is replaced, never changed, and the service computed the digests before it stored it. So media in a file
that is as it was then (`sealed_files`) are read at the speed of the page cache. In any other file, each is verified
once in a process.
"""

import hashlib
import os
import resource
import stat
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from omnialign.sealed_files import is_sealed
from omnialign.v1 import data_service_pb2

MIN_OPEN, MAX_OPEN = 128, 4096
"""Fewest and most files that are kept open, and as many folders: of a limit of the process, at most half for both.
Opening one takes half as long as reading a small medium, and 4096 packs hold about a million of them."""
LATER_BYTES = 256 * 1024
"""Verified media in files of so many bytes are read when they are wanted: memory that was just freed needs no pages.
Until then they keep the file open; of small files there may be too many for that."""
MAX_DEPTH = 16
"""Folders below a folder: those of media have four."""
MAX_VERIFIED = 2_000_000
"""Ranges that are remembered as verified; beyond that, those in the files used longest ago are forgotten."""
DIGEST_CHARACTERS = 64
OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
Identity = tuple[int, int, int, int]
"""Device, inode, time of the last change in nanoseconds, size in bytes."""
SIZE = 3
"""Where the size is in an Identity."""


class Handle:
    """An open file or folder, closed when nobody has it any more."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.sealed: Identity | None = None
        """What the file was when it was opened with a valid seal."""

    def __del__(self) -> None:
        os.close(self.number)


@dataclass(slots=True)
class OpenFile:
    """A file as it is now."""

    handle: Handle
    identity: Identity
    is_sealed: bool
    verified: set[int]
    """The hashes of (digest, offset) of the ranges that were verified."""


@dataclass(slots=True)
class FileRange:
    """Bytes of a medium in an open file, which are still to be read."""

    file: OpenFile
    sha256: str
    offset: int
    size_bytes: int
    is_verified: bool

    def __len__(self) -> int:
        return self.size_bytes

    @property
    def is_later(self) -> bool:
        """Whether they need not be read before they are wanted."""
        return self.is_verified and self.file.identity[SIZE] >= LATER_BYTES

    def read(self) -> bytes | None:
        """The bytes; None if they are gone."""
        try:
            data = os.pread(self.file.handle.number, self.size_bytes, self.offset)
        except OSError:
            return None
        return data if len(data) == self.size_bytes else None


class MediaFiles:
    """The files that a service leads to. Safe for concurrent threads."""

    def __init__(self) -> None:
        # Records lie in the order of their ids, and so their media all over the files: with too few of them open, each
        # medium would open one.
        self._max_open = min(max(resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4, MIN_OPEN), MAX_OPEN)
        self._files: OrderedDict[tuple[str, str], Handle] = OrderedDict()
        self._folders: OrderedDict[tuple[str, str], Handle] = OrderedDict()
        self._verified: OrderedDict[Identity, set[int]] = OrderedDict()
        self._num_verified = 0
        self._lock = threading.Lock()

    def find(
        self, files: data_service_pb2.MediaFiles, *, verify: bool = False
    ) -> Iterator[tuple[str, FileRange | None]]:
        """Where the media are, by digest; None for one whose file cannot be opened, or is too short.

        With `verify`, none counts as verified, whatever seals say.
        """
        opened, digests, at = self._open(files.folder, files.paths), files.digests.hex(), 0
        for number, offset, size_bytes in zip(files.files, files.offsets, files.sizes_bytes, strict=True):
            digest = digests[at : at + DIGEST_CHARACTERS]
            at += DIGEST_CHARACTERS
            file = opened[number] if number < len(opened) else None
            if file is None or offset + size_bytes > file.identity[SIZE]:
                yield digest, None
            else:
                is_verified = not verify and (file.is_sealed or _key(digest, offset) in file.verified)
                yield digest, FileRange(file, digest, offset, size_bytes, is_verified)

    def read(self, found: FileRange) -> bytes | FileRange | None:
        """The bytes of a medium, verified, or where they are if that will do; None if they are gone, or others."""
        if found.is_later:
            return found
        data = found.read()
        if data is None or found.is_verified:
            return data
        if hashlib.sha256(data).hexdigest() != found.sha256:
            return None
        if not found.file.is_sealed:
            self._remember(found.file, _key(found.sha256, found.offset))
        return data

    def close(self) -> None:
        """Forgets the files; those that nobody has any more are closed."""
        with self._lock:
            self._files.clear()
            self._folders.clear()

    def _open(self, folder: str, paths: Iterable[str]) -> list[OpenFile | None]:
        """Files as they are now; None for one that cannot be opened."""
        opened = list[OpenFile | None]()
        with self._lock:
            for path in paths:
                try:
                    handle, identity = self._file(folder, path)
                except (OSError, ValueError):
                    opened.append(None)
                else:
                    verified = self._verified.get(identity, set())
                    opened.append(OpenFile(handle, identity, identity == handle.sealed, verified))
        return opened

    def _file(self, folder: str, path: str) -> tuple[Handle, Identity]:
        """An open file, and what it is now. Raises OSError, and ValueError for a path that leads elsewhere."""
        key = (folder, path)
        if (handle := self._files.get(key)) is not None:
            self._files.move_to_end(key)
            return handle, _identity(os.fstat(handle.number))
        if path.count("/") > MAX_DEPTH:
            raise ValueError("too deep")
        parent, _, name = path.rpartition("/")
        inner = self._folder(folder, parent)
        handle = Handle(os.open(_checked(name), OPEN | os.O_NONBLOCK, dir_fd=inner.number))
        found = os.fstat(handle.number)
        if not stat.S_ISREG(found.st_mode):
            raise ValueError("not a file")
        identity = _identity(found)
        if is_sealed(handle.number, found):
            handle.sealed = identity
        self._keep(self._files, key, handle)
        return handle, identity

    def _folder(self, folder: str, path: str) -> Handle:
        """An open folder below another one, reached step by step without following a symbolic link.

        Raises OSError, and ValueError for what is not below a local folder.
        """
        key = (folder, path)
        if (handle := self._folders.get(key)) is not None:
            self._folders.move_to_end(key)
            return handle
        if path:
            parent, _, name = path.rpartition("/")
            handle = Handle(os.open(_checked(name), OPEN | os.O_DIRECTORY, dir_fd=self._folder(folder, parent).number))
        else:
            url = urlsplit(folder)
            if url.scheme != "file" or url.netloc:
                raise ValueError("not a local folder")
            handle = Handle(os.open(unquote(url.path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        self._keep(self._folders, key, handle)
        return handle

    def _keep(self, kept: OrderedDict[tuple[str, str], Handle], key: tuple[str, str], handle: Handle) -> None:
        kept[key] = handle
        while len(kept) > self._max_open:
            kept.popitem(last=False)

    def _remember(self, file: OpenFile, key: int) -> None:
        with self._lock:
            self._num_verified += key not in file.verified
            file.verified.add(key)
            self._verified[file.identity] = file.verified
            self._verified.move_to_end(file.identity)
            while self._num_verified > MAX_VERIFIED and len(self._verified) > 1:
                self._num_verified -= len(self._verified.popitem(last=False)[1])


def _key(sha256: str, offset: int) -> int:
    return hash((sha256, offset))


def _identity(found: os.stat_result) -> Identity:
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size


def _checked(name: str) -> str:
    """A name in a folder. Raises ValueError for what may lead out of it."""
    if name in ("", ".", "..") or "/" in name:
        raise ValueError("not a name in a folder")
    return name
