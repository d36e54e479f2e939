"""A folder as a list of files: their paths, sizes and digests, and one digest over all of them.

The registry identifies a model by the digest of its folder: SHA-256 over the path and the digest of each file, in
order of path.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class FileEntry:
    """One file of a folder. `path` is relative, with `/` between its parts; `sha256` is in hexadecimal."""

    path: str
    size_bytes: int
    sha256: str


def list_files(folder: Path) -> list[Path]:
    """The regular files in a folder and below it, in order of path; a link to a file counts as the file."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes (blocking)."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_entry(path: Path, *, folder: Path) -> FileEntry:
    """Path, size and digest of a file in a folder (blocking: it hashes the file)."""
    return FileEntry(path.relative_to(folder).as_posix(), path.stat().st_size, file_digest(path))


def entries_digest(entries: Iterable[FileEntry]) -> str:
    """The digest of a folder that holds these files."""
    whole = hashlib.sha256()
    for entry in sorted(entries, key=lambda entry: entry.path.split("/")):
        whole.update(f"{entry.path}\0".encode())
        whole.update(bytes.fromhex(entry.sha256))
    return whole.hexdigest()


def folder_digest(folder: Path) -> str:
    """The digest of a folder as it is on the disk (blocking: it hashes every file)."""
    return entries_digest(file_entry(path, folder=folder) for path in list_files(folder))
