"""The interface of the object store, and what every implementation shares.

A key is a relative path with `/` between its parts, made by this service, never by a caller. All methods block, so
async code calls them through `run_in_pool`. They raise S3_UNAVAILABLE, S3_CREDENTIALS_REFUSED, S3_BUCKET_MISSING and
STORAGE_FULL.
"""

import asyncio
import errno
import hashlib
import os
import tempfile
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, ParamSpec, Protocol, TypeVar

from omnialign.errors import DataLoss, NotFound
from services.data.errors import translate_storage_errors

CHUNK_BYTES = 512 * 1024


@dataclass(frozen=True)
class ObjectInfo:
    """An object without its bytes. `modified_us` is in microseconds since 1970."""

    key: str
    size_bytes: int
    modified_us: int


@dataclass(frozen=True)
class TableLocation:
    """Where Lance finds a table, and what it needs to open it."""

    uri: str
    options: Mapping[str, str]
    folder: Path | None
    """The location as a local folder; None for a bucket."""
    scratch: Path
    """A local folder in which a new table is built before it is published."""
    publish: Callable[[Path], None]
    """Publishes the table in a local folder at this location, unless one exists: one of several callers wins."""

    @classmethod
    def of_folder(cls, folder: Path) -> "TableLocation":
        """The location of a table in a local folder."""
        return cls(str(folder), {}, folder, folder.parent, partial(_move, folder))


class ObjectStore(Protocol):
    """Objects by key. Safe for concurrent threads, and for concurrent processes on one location."""

    @property
    def uri(self) -> str:
        """The location as `file:///folder` or `s3://bucket/prefix`."""
        ...

    def check(self) -> None:
        """Raises the error that prevents the store from being used, if any."""
        ...

    def put(self, key: str, path: Path, *, sha256: str, durable: bool = True) -> None:
        """Stores a local file as the object, atomically. The file may be gone afterwards.

        `sha256` is the digest of the file. Unless `durable`, the object survives a power cut only after `sync`.
        """
        ...

    def put_bytes(self, key: str, data: bytes | memoryview, *, durable: bool = True) -> None:
        """Stores a small object, replacing an existing one; `durable` as of `put`."""
        ...

    def read(self, key: str, *, start: int = 0, length: int) -> bytes:
        """At most `length` bytes from `start`. Raises NotFound."""
        ...

    def read_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """At most so many bytes from each offset on, given as (offset, length), in the order given. Raises NotFound."""
        ...

    def chunks(self, key: str, *, sha256: str) -> Generator[bytes, None, None]:
        """The bytes in chunks. Raises NotFound, and OBJECT_CORRUPT after the last one if the digest does not match."""
        ...

    def stat(self, key: str) -> ObjectInfo | None:
        """Size and time of an object; None if it does not exist."""
        ...

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """The objects below a prefix that ends with `/`, in no particular order."""
        ...

    def copy(self, source: str, target: str) -> None:
        """Copies an object inside the store. Raises NotFound."""
        ...

    def delete(self, key: str) -> None:
        """Removes an object; succeeds if it does not exist."""
        ...

    def delete_below(self, prefix: str) -> None:
        """Removes the objects below a prefix that ends with `/`."""
        ...

    def sync(self) -> None:
        """Waits until everything put so far survives a power cut."""
        ...

    def presign_put(self, key: str, *, seconds: float) -> str:
        """A URL that lets its holder put this object for `seconds`. Raises PRESIGNING_UNAVAILABLE."""
        ...

    def presign_get(self, key: str, *, seconds: float) -> str:
        """A URL that lets its holder read this object for `seconds`. Raises PRESIGNING_UNAVAILABLE."""
        ...

    def table(self, name: str, *, uid: str) -> TableLocation:
        """The location of a Lance table. Where tables cannot be removed atomically, each `uid` has its own location."""
        ...

    def remove_table(self, name: str, *, uid: str) -> None:
        """Removes a Lance table; succeeds if it does not exist."""
        ...


def _move(target: Path, folder: Path) -> None:
    # rename() refuses to replace a folder that is not empty, so the first of several creators wins and the others
    # find the winner's table.
    try:
        folder.rename(target)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise


def object_not_found(key: str) -> NotFound:
    """The error for an object that does not exist."""
    return NotFound(f"There is no object {key}.", reason="OBJECT_NOT_FOUND", metadata={"key": key})


def verified(pieces: Iterator[bytes], *, key: str, sha256: str) -> Generator[bytes, None, None]:
    """Passes the pieces on; raises OBJECT_CORRUPT after the last one if their digest does not match."""
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
        yield piece
    if digest.hexdigest() != sha256:
        message = f"The stored object {key} is damaged: upload it again."
        raise DataLoss(message, reason="OBJECT_CORRUPT", metadata={"key": key})


class StagedFile:
    """A local file on its way into the store: hashed and measured while it is written, seen by nobody until it is put.

    Blocking. `head` holds the first bytes: at most `head_bytes`, and at most those of the first write.
    """

    def __init__(self, folder: Path, *, head_bytes: int = 0) -> None:
        self._head_bytes = head_bytes
        self._digest = hashlib.sha256()
        self.head = b""
        self.size_bytes = 0
        with translate_storage_errors():
            handle, name = tempfile.mkstemp(dir=folder)
        self.path = Path(name)
        self._file: IO[bytes] = os.fdopen(handle, "wb")

    def write(self, chunk: bytes | memoryview) -> None:
        """Appends. Raises STORAGE_FULL."""
        self.size_bytes += len(chunk)
        self.head = self.head or bytes(chunk[: self._head_bytes])
        self._digest.update(chunk)
        with translate_storage_errors():
            self._file.write(chunk)

    def finish(self) -> str:
        """Closes the file and returns its digest. The bytes are not yet safe from a power cut."""
        with translate_storage_errors():
            self._file.close()
        return self._digest.hexdigest()

    def discard(self) -> None:
        """Removes the file, unless it was moved into the store."""
        with translate_storage_errors():
            self._file.close()
        self.path.unlink(missing_ok=True)


P = ParamSpec("P")
T = TypeVar("T")


async def run_in_pool(pool: ThreadPoolExecutor, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Runs a blocking function in the pool and waits for its result, off the event loop.

    A call that has begun cannot be interrupted: when the wait is cancelled, it runs to its end unobserved.
    """
    return await asyncio.get_running_loop().run_in_executor(pool, lambda: function(*args, **kwargs))
