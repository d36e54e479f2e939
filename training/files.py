"""Files and folders that appear complete or not at all, and stay after a power cut.

The rule everywhere: write under another name, make the bytes durable, rename, make the name durable. A rename within a
folder is atomic; without the first sync it could survive a crash that the bytes did not.
"""

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path


def write_atomically(path: Path, data: bytes) -> None:
    """Writes a file so that a reader sees the old bytes or the new ones, and the new ones survive a power cut."""
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = staging_name(path)
    try:
        with staged.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        staged.replace(path)
    finally:
        staged.unlink(missing_ok=True)
    sync_folder(path.parent)


def write_cached(path: Path, data: bytes) -> None:
    """Writes a file that can be fetched again: complete or not at all, but without waiting for the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.with_name(f".{path.name}")
    staged.write_bytes(data)
    staged.replace(path)


def staging_name(path: Path) -> Path:
    """A name beside `path` under which it may be written before it is renamed; another one on every call."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}")


def replace_folder(staged: Path, final: Path) -> None:
    """Makes `staged` durable and renames it to `final`, in place of a folder of that name.

    The new folder appears complete. A crash while the old one is removed leaves parts of that, so readers of what may
    be replaced must be able to tell (checkpoints have a manifest).
    """
    sync_tree(staged)
    shutil.rmtree(final, ignore_errors=True)  # a folder that is not empty cannot be renamed over
    staged.replace(final)
    sync_folder(final.parent)


def sync_folder(folder: Path) -> None:
    """Makes the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Makes every file under a folder durable."""
    for path in walk(folder):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    sync_folder(folder)


def walk(folder: Path) -> Iterator[Path]:
    """Every file under a folder, in a stable order."""
    for path in sorted(folder.rglob("*")):
        with contextlib.suppress(FileNotFoundError):
            if path.is_file():
                yield path
