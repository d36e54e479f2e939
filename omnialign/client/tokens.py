"""A bearer token from a file, read again when the file changes: tokens are renewed while a process lives."""

import os
from pathlib import Path

from omnialign.errors import Unauthenticated


class TokenFile:
    """Called, it returns the token in the file now; a file that is gone for a moment leaves the former one in use.

    Raises Unauthenticated (`TOKEN_FILE_UNREADABLE`) when there never was one.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._signature: tuple[int, int, int] | None = None
        self._token = ""

    def __call__(self) -> str:
        """The token."""
        try:
            found = os.stat(self._path)  # noqa: PTH116  the same call, without a Path in between
            signature = (found.st_mtime_ns, found.st_size, found.st_ino)
            if signature != self._signature:
                token = self._path.read_text("utf-8").strip()
                self._token, self._signature = token or self._token, signature
        except (OSError, ValueError) as error:
            if not self._token:
                raise self._unreadable(str(error)) from None
        if not self._token:
            raise self._unreadable("it is empty")
        return self._token

    def _unreadable(self, problem: str) -> Unauthenticated:
        return Unauthenticated(
            f"The token file '{self._path}' holds no token: {problem}",
            reason="TOKEN_FILE_UNREADABLE",
            metadata={"file": str(self._path)},
        )
