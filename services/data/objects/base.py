"""What the data service asks of the place where its objects lie.

A key is a relative path with `/` between its parts, made by this service, never by a caller. All methods block; the
pools of the service run them. They raise S3_UNAVAILABLE, S3_CREDENTIALS_REFUSED, S3_BUCKET_MISSING and STORAGE_FULL.
"""

import errno
import hashlib
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from omnialign.errors import DataLoss, NotFound

CHUNK_BYTES = 512 * 1024


@dataclass(frozen=True)
class ObjectInfo:
    """An object without its bytes. `modified_us` is in microseconds since 1970."""

    key: str
    size_bytes: int
    modified_us: int


@dataclass(frozen=True)
class TablePlace:
    """Where Lance finds a table, and what it needs to get there."""

    uri: str
    options: Mapping[str, str]
    folder: Path | None
    """The same place where it is a folder of this machine."""
    scratch: Path
    """A folder of this machine to make a new table in."""
    publish: Callable[[Path], None]
    """Makes the new table in a folder the table of this place, unless there is one: of several at once, one wins."""

    @classmethod
    def of_folder(cls, folder: Path) -> "TablePlace":
        """A place that is a folder of this machine."""
        return cls(str(folder), {}, folder, folder.parent, partial(_move, folder))


class ObjectStore(Protocol):
    """Objects by key. Safe for many threads, and for many processes on one place."""

    @property
    def uri(self) -> str:
        """The place as `file:///folder` or `s3://bucket/prefix`."""
        ...

    def check(self) -> None:
        """Raises what keeps the place from being used."""
        ...

    def put(self, key: str, path: Path, *, sha256: str, durable: bool = True) -> None:
        """Makes a file of this machine the object, all of it or nothing; the file may be gone afterwards.

        `sha256` is the digest of the file. Without `durable` it is safe from a power cut only after `settle`.
        """
        ...

    def put_bytes(self, key: str, data: bytes) -> None:
        """Makes a few bytes the object; replaces what was there."""
        ...

    def read(self, key: str, *, start: int = 0, length: int) -> bytes:
        """At most `length` bytes from `start`. Raises NotFound."""
        ...

    def chunks(self, key: str, *, sha256: str) -> Generator[bytes, None, None]:
        """The bytes in pieces. Raises NotFound, and OBJECT_CORRUPT after the last when their digest is another."""
        ...

    def stat(self, key: str) -> ObjectInfo | None:
        """What is there; None for nothing."""
        ...

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """The objects below a prefix that ends with `/`, in no order."""
        ...

    def copy(self, source: str, target: str) -> None:
        """Makes a second object of the same bytes. Raises NotFound."""
        ...

    def delete(self, key: str) -> None:
        """Removes an object; one that is not there is success."""
        ...

    def delete_below(self, prefix: str) -> None:
        """Removes the objects below a prefix that ends with `/`."""
        ...

    def settle(self) -> None:
        """Waits until all that was put is safe from a power cut."""
        ...

    def presign_put(self, key: str, *, seconds: float) -> str:
        """A link that whoever has it may put this object to, for so long. Raises PRESIGNING_UNAVAILABLE."""
        ...

    def presign_get(self, key: str, *, seconds: float) -> str:
        """A link that whoever has it may read this object from, for so long. Raises PRESIGNING_UNAVAILABLE."""
        ...

    def table(self, name: str, *, uid: str) -> TablePlace:
        """The place of a Lance table. Where a table cannot vanish at once, another `uid` is another place."""
        ...

    def remove_table(self, name: str, *, uid: str) -> None:
        """Removes a Lance table; one that is not there is success."""
        ...


def _move(target: Path, folder: Path) -> None:
    try:
        folder.rename(target)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise


def missing(key: str) -> NotFound:
    """The error for an object that is not there."""
    return NotFound(f"There is no object {key}.", reason="OBJECT_NOT_FOUND", metadata={"key": key})


def proven(pieces: Iterator[bytes], *, key: str, sha256: str) -> Generator[bytes, None, None]:
    """The pieces; raises OBJECT_CORRUPT after the last when their digest is another."""
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
        yield piece
    if digest.hexdigest() != sha256:
        message = f"The stored object {key} is damaged: put it there again."
        raise DataLoss(message, reason="OBJECT_CORRUPT", metadata={"key": key})
