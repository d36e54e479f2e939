"""Objects as files in a local folder. A file is synced and then renamed, so an object is complete or absent.

Once its bytes are on the disk it is sealed, so that who reads it from there need not compute its digest again.
"""

import ctypes
import os
import shutil
import tempfile
import threading
import uuid
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath

from omnialign.errors import FailedPrecondition
from omnialign.sealed_files import seal
from services.data.errors import translate_storage_errors
from services.data.objects.base import CHUNK_BYTES, ObjectInfo, TableLocation, object_not_found, verified

INCOMING = PurePosixPath("media", "incoming")
"""The folder of files that are not objects yet; what a killed process leaves there is swept."""


class LocalObjectStore:
    """Objects below a folder. A file to be put must be on the same filesystem, or the rename would not be atomic."""

    def __init__(self, root: Path) -> None:
        self._root, self._folder = root, f"{root}/"
        self._incoming = root / INCOMING
        self._unsynced: list[str] = []
        """Objects that were put and may not be on the disk yet."""
        self._lock = threading.Lock()

    @property
    def uri(self) -> str:
        """The folder as `file://`."""
        return self._root.resolve().as_uri()

    def check(self) -> None:
        """Creates the folder. Raises STORAGE_FULL."""
        with translate_storage_errors():
            self._root.mkdir(parents=True, exist_ok=True)

    def put(self, key: str, path: Path, *, sha256: str, durable: bool = True) -> None:
        """Moves the file into the folder. See ObjectStore."""
        del sha256  # computed over this very file
        target = self.path(key)
        with translate_storage_errors():
            # The order is what makes it crash-safe: (1) the bytes, (2) the name, (3) the folder that holds the name.
            # Renamed before its bytes are on disk, a file could survive a power cut empty under its final name.
            if durable:
                with path.open("rb+") as file:
                    os.fsync(file.fileno())
                    seal(file.fileno())
            target.parent.mkdir(parents=True, exist_ok=True)
            path.replace(target)
            if durable:
                _sync_folder(target.parent)
        if not durable:
            with self._lock:
                self._unsynced.append(key)

    def put_bytes(self, key: str, data: bytes | memoryview, *, durable: bool = True) -> None:
        """Writes a small file. See ObjectStore."""
        with translate_storage_errors():
            self._incoming.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=self._incoming, prefix="putting-")
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(data)
                self.put(key, Path(name), sha256="", durable=durable)
            finally:
                Path(name).unlink(missing_ok=True)

    def read(self, key: str, *, start: int = 0, length: int) -> bytes:
        """See ObjectStore."""
        with self._found(key), self.path(key).open("rb") as file:
            file.seek(start)
            return file.read(length)

    def read_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """See ObjectStore."""
        with self._found(key):
            file = os.open(self.path(key), os.O_RDONLY)
            try:
                return [os.pread(file, length, start) for start, length in ranges]
            finally:
                os.close(file)

    def chunks(self, key: str, *, sha256: str) -> Generator[bytes, None, None]:
        """See ObjectStore."""
        return verified(self._pieces(key), key=key, sha256=sha256)

    def stat(self, key: str) -> ObjectInfo | None:
        """See ObjectStore."""
        try:
            found = os.stat(self._place(key))  # noqa: PTH116 - a path takes longer to make than to look at
        except (FileNotFoundError, NotADirectoryError):
            return None
        return ObjectInfo(key, found.st_size, found.st_mtime_ns // 1000)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """See ObjectStore."""
        for path in self.path(prefix).rglob("*"):
            if path.is_file() and (found := self.stat(path.relative_to(self._root).as_posix())):
                yield found

    def copy(self, source: str, target: str) -> None:
        """Hard-links the file, which is safe because objects are replaced but never modified. See ObjectStore."""
        path = self.path(target)
        with self._found(source), translate_storage_errors():
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=path.parent, prefix=".copying-") as folder:
                staged = Path(folder) / "file"  # a link cannot replace a file, but the rename of a link can
                try:
                    staged.hardlink_to(self.path(source))
                except FileNotFoundError:
                    raise
                except OSError:  # a filesystem without hard links
                    shutil.copyfile(self.path(source), staged)
                staged.replace(path)
            _sync_folder(path.parent)

    def delete(self, key: str) -> None:
        """See ObjectStore."""
        with suppress(FileNotFoundError, NotADirectoryError):
            self.path(key).unlink()

    def delete_below(self, prefix: str) -> None:
        """See ObjectStore."""
        shutil.rmtree(self.path(prefix), ignore_errors=True)

    def sync(self) -> None:
        """Syncs the whole filesystem once: far cheaper than once per object. See ObjectStore."""
        with self._lock:
            synced, self._unsynced = self._unsynced, []
        sync_filesystem(self._root)
        for key in synced:
            with suppress(OSError), self.path(key).open("rb") as file:  # it may be gone by now
                seal(file.fileno())

    def presign_put(self, key: str, *, seconds: float) -> str:
        """Raises PRESIGNING_UNAVAILABLE: local files have no URLs."""
        raise _no_links(key, seconds)

    def presign_get(self, key: str, *, seconds: float) -> str:
        """Raises PRESIGNING_UNAVAILABLE: local files have no URLs."""
        raise _no_links(key, seconds)

    def table(self, name: str, *, uid: str) -> TableLocation:
        """See ObjectStore. A folder is removed atomically, so the name alone identifies it."""
        del uid
        return TableLocation.of_folder(self.path(f"lance/{name}.lance"))

    def remove_table(self, name: str, *, uid: str) -> None:
        """Renames the table into the trash, which is atomic, then deletes its files. See ObjectStore."""
        trash = self.path(f"lance/.trash/{uuid.uuid4()}")
        trash.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            self.path(f"lance/{name}.lance").rename(trash)
            shutil.rmtree(trash, ignore_errors=True)

    def path(self, key: str) -> Path:
        """The file of an object."""
        return Path(self._place(key))

    def _place(self, key: str) -> str:
        assert key and key[0] != "/" and ".." not in key.split("/"), (
            key
        )  # it comes from this service, not from a caller
        return self._folder + key

    def _pieces(self, key: str) -> Iterator[bytes]:
        with self._found(key), self.path(key).open("rb") as file:
            while piece := file.read(CHUNK_BYTES):
                yield piece

    @contextmanager
    def _found(self, key: str) -> Iterator[None]:
        try:
            yield
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
            raise object_not_found(key) from error


def sync_filesystem(folder: Path) -> None:
    """Flushes the filesystem that holds `folder` to disk (blocking)."""
    sync_one = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
    if sync_one is None:  # not Linux
        os.sync()
        return
    with translate_storage_errors(), _folder(folder) as handle:
        if sync_one(handle):
            raise OSError(ctypes.get_errno(), "the filesystem cannot be synced")


def _sync_folder(folder: Path) -> None:
    """Makes a rename inside the folder survive a power cut."""
    with _folder(folder) as handle:
        os.fsync(handle)


@contextmanager
def _folder(path: Path) -> Iterator[int]:
    handle = os.open(path, os.O_RDONLY)
    try:
        yield handle
    finally:
        os.close(handle)


def _no_links(key: str, seconds: float) -> FailedPrecondition:
    del key, seconds
    message = (
        "This service keeps its objects in local files, which have no presigned URLs: use UploadMedia and GetMedia."
    )
    return FailedPrecondition(message, reason="PRESIGNING_UNAVAILABLE")
