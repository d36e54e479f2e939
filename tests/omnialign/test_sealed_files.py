"""Files that say of themselves that nobody has changed them since they were stored."""

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from omnialign.sealed_files import is_sealed, seal


def sealed(path: Path) -> bool:
    with path.open("rb") as file:
        return is_sealed(file.fileno(), os.fstat(file.fileno()))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file that was sealed just after it was written."""
    found = tmp_path / "medium"
    found.write_bytes(b"media")
    assert not sealed(found)
    with found.open("rb") as file:
        seal(file.fileno())
    if not sealed(found):
        pytest.skip("this file system keeps no extended attributes")
    return found


def write_within(path: Path) -> Path:
    with path.open("rb+") as file:
        file.write(b"M")
    return path


def write_anew(path: Path) -> Path:
    path.write_bytes(b"MEDIA")
    return path


def cut(path: Path) -> Path:
    os.truncate(path, 4)
    return path


def replace(path: Path) -> Path:
    other = path.with_name("other")
    other.write_bytes(b"media")
    return other.replace(path)


def copy_everything(path: Path) -> Path:
    return Path(shutil.copy2(path, path.with_name("copy")))


@pytest.mark.parametrize("change", [write_within, write_anew, cut, replace, copy_everything])
def test_whatever_changes_or_copies_a_file_breaks_its_seal_at_once(path: Path, change: Callable[[Path], Path]) -> None:
    assert not sealed(change(path))


def test_a_file_that_is_renamed_or_linked_keeps_its_seal(path: Path) -> None:
    moved = path.rename(path.with_name("moved"))
    path.hardlink_to(moved)
    assert sealed(moved)
    assert sealed(path)


def test_a_file_system_that_keeps_no_seals_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOTSUP, "Operation not supported")

    for name in ("setxattr", "getxattr"):
        monkeypatch.setattr(os, name, refuse, raising=False)
    path = tmp_path / "medium"
    path.write_bytes(b"media")
    with path.open("rb") as file:
        seal(file.fileno())
    assert not sealed(path)
    assert path.read_bytes() == b"media"
