"""A temporary file that is hashed and measured while it is written, before anyone sees it."""

import hashlib
import os
import tempfile
from pathlib import Path
from typing import IO

from services.data.faults import storage


class IncomingFile:
    """Blocking. `head` are the first bytes, at most `head_bytes` and at most those of the first write."""

    def __init__(self, folder: Path, *, head_bytes: int = 0) -> None:
        self._head_bytes = head_bytes
        self._digest = hashlib.sha256()
        self.head = b""
        self.size_bytes = 0
        with storage():
            handle, name = tempfile.mkstemp(dir=folder)
        self.path = Path(name)
        self._file: IO[bytes] = os.fdopen(handle, "wb")

    def write(self, chunk: bytes) -> None:
        """Appends. Raises STORAGE_FULL."""
        self.size_bytes += len(chunk)
        self.head = self.head or bytes(chunk[: self._head_bytes])
        self._digest.update(chunk)
        with storage():
            self._file.write(chunk)

    def finish(self) -> str:
        """Ends the file and gives its digest; the bytes are not yet safe from a power cut."""
        with storage():
            self._file.close()
        return self._digest.hexdigest()

    def discard(self) -> None:
        """Removes the file, unless it was moved away."""
        with storage():
            self._file.close()
        self.path.unlink(missing_ok=True)
