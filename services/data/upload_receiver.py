"""Receiving one upload: its files come one after the other, each as its description followed by its bytes.

The files are stored under their number and digest, never under the caller's paths. Those that an earlier call with the
same request id has stored need not come again.
"""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from omnialign.errors import InvalidArgument, NotFound, OmnialignError, ResourceExhausted
from omnialign.folders import FileEntry
from omnialign.v1.data_service_pb2 import UploadedFile
from services.data.config import DataConfig
from services.data.objects import ObjectStore
from services.data.objects.base import StagedFile
from services.data.store import now_us

PREFIX = "uploads/"
MAX_MANIFEST_BYTES = 64 * 1024 * 1024
MAX_PATH_BYTES, MAX_PART_BYTES, MAX_DEPTH = 512, 200, 16
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\\]")


def check_path(path: str) -> str:
    """Returns `path` if it can name a file of an upload. Raises UPLOAD_PATH_INVALID."""
    parts = path.split("/")
    problem = ""
    if CONTROL.search(path):
        problem = "has control characters or a backslash"
    elif not all(parts) or any(part in (".", "..") for part in parts):
        problem = "is not relative, or has a part that is empty, `.` or `..`"
    elif len(path.encode()) > MAX_PATH_BYTES or max(len(part.encode()) for part in parts) > MAX_PART_BYTES:
        problem = f"is longer than {MAX_PATH_BYTES} bytes, or has a part longer than {MAX_PART_BYTES}"
    elif len(parts) > MAX_DEPTH:
        problem = f"has more than {MAX_DEPTH} parts"
    if problem:
        message = f"The path {path[:100]!r} of an upload {problem}: rename the file."
        raise InvalidArgument(message, reason="UPLOAD_PATH_INVALID", metadata={"path": path[:100]})
    return path


class UploadReceiver:
    """An upload being received. Blocking; one call at a time."""

    def __init__(
        self,
        config: DataConfig,
        objects: ObjectStore,
        scratch: Path,
        *,
        upload_id: str,
        stored: Mapping[tuple[int, str], int],
    ) -> None:
        self.id, self._stored = upload_id, stored
        self.expire_us = now_us() + int(config.upload_seconds * 1e6)
        self.files: dict[FileEntry, str] = {}
        self.size_bytes = 0
        self._config, self._objects, self._scratch = config, objects, scratch
        self._paths: set[str] = set()
        self._folders: set[str] = set()
        self._file: UploadedFile | None = None
        self._staged: StagedFile | None = None

    def begin(self, file: UploadedFile) -> None:
        """Begins a file, and ends the one before it."""
        self._end_file()
        path = check_path(file.path)
        folders = set(_parents(path))
        if path in self._paths or path in self._folders or folders & self._paths:
            message = f"The upload names {path} twice, or as both a file and a folder: name each file once."
            raise InvalidArgument(message, reason="UPLOAD_PATH_REPEATED", metadata={"path": path})
        self.size_bytes += file.size_bytes
        self._check_limits(len(self._paths) + 1)
        self._paths.add(path)
        self._folders |= folders
        self._file, self._staged = file, StagedFile(self._scratch)

    def write(self, chunk: bytes) -> None:
        """Appends to the file that was begun."""
        if self._staged is None or self._file is None:
            raise InvalidArgument("The bytes of a file must follow its description.", reason="UPLOAD_FILE_MISSING")
        if self._staged.size_bytes + len(chunk) > self._file.size_bytes:
            raise self._refusal("UPLOAD_TOO_LONG", f"has more than the announced {self._file.size_bytes} bytes")
        self._staged.write(chunk)

    def finish(self, name: str) -> None:
        """Makes the upload visible under its name."""
        self._end_file()
        if not self.files:
            raise InvalidArgument("The upload has no files.", reason="UPLOAD_EMPTY")
        # The manifest comes last and makes the upload visible: after a crash before this line there is none, and the
        # sweep removes the files.
        files = [[entry.path, entry.size_bytes, entry.sha256, key] for entry, key in self.files.items()]
        self._check_same(files)
        manifest = {"name": name, "expire_us": self.expire_us, "files": files}
        self._objects.put_bytes(manifest_key(self.id), json.dumps(manifest).encode())

    def discard(self) -> None:
        """Removes the file that was being received."""
        if self._staged is not None:
            self._staged.discard()

    def abandon(self) -> None:
        """Removes what was received; what cannot be removed now is swept later."""
        self.discard()
        with suppress(OmnialignError, OSError):
            self._objects.delete_below(f"{PREFIX}{self.id}/")

    def _end_file(self) -> None:
        if self._staged is None or self._file is None:
            return
        file, staged = self._file, self._staged
        number, sha256 = len(self.files), staged.finish()
        if not staged.size_bytes and self._stored.get((number, file.sha256)) == file.size_bytes:
            self._add(file, file.sha256)
            return
        if staged.size_bytes != file.size_bytes:
            raise self._refusal("UPLOAD_TRUNCATED", f"ended after {staged.size_bytes} of {file.size_bytes} bytes")
        if file.sha256 and sha256 != file.sha256:
            raise self._refusal(
                "UPLOAD_DIGEST_MISMATCH", f"has the digest {sha256} instead of the announced {file.sha256}"
            )
        self._objects.put(self._key(number, sha256), staged.path, sha256=sha256)
        self._add(file, sha256)

    def _add(self, file: UploadedFile, sha256: str) -> None:
        self.discard()
        self.files[FileEntry(file.path, file.size_bytes, sha256)] = self._key(len(self.files), sha256)
        self._file = self._staged = None

    def _key(self, number: int, sha256: str) -> str:
        return f"{PREFIX}{self.id}/{number:06d}-{sha256}"

    def _check_same(self, files: list[list[object]]) -> None:
        """Refuses files other than those of the complete upload of the same request id, if there is one."""
        with suppress(NotFound):
            blob = self._objects.read(manifest_key(self.id), length=MAX_MANIFEST_BYTES)
            if json.loads(blob)["files"] != files:
                message = "Another upload had this request id: take a new one for other files."
                raise InvalidArgument(message, reason="REQUEST_ID_REUSED")

    def _check_limits(self, count: int) -> None:
        config = self._config
        if count > config.max_upload_files or self.size_bytes > config.max_upload_bytes:
            limits = f"{config.max_upload_files} files and {config.max_upload_bytes} bytes"
            raise ResourceExhausted(f"An upload holds at most {limits}: split it.", reason="UPLOAD_TOO_LARGE")

    def _refusal(self, reason: str, problem: str) -> InvalidArgument:
        path = self._file.path if self._file else ""
        return InvalidArgument(f"{path} {problem}: send it again.", reason=reason, metadata={"path": path})


def manifest_key(upload_id: str) -> str:
    """Where the manifest of an upload is, which is written last."""
    return f"{PREFIX}{upload_id}.json"


def _parents(path: str) -> Iterator[str]:
    parts = path.split("/")
    for count in range(1, len(parts)):
        yield "/".join(parts[:count])
