"""Media in files of a service on the same machine: only what is there, whole, and below the folder that was told."""

import errno
import hashlib
import os
import resource
from collections.abc import Callable
from pathlib import Path

import pytest

from omnialign.client.media_files import MAX_OPEN, MIN_OPEN, FileRange, MediaFiles
from omnialign.v1 import data_service_pb2


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def read(files: MediaFiles, where: data_service_pb2.MediaFiles) -> list[tuple[str, bytes | FileRange | None]]:
    return [(digest, files.read(place) if place is not None else None) for digest, place in files.find(where)]


def read_at(files: MediaFiles, folder: Path, path: str, offset: int = 0, data: bytes = b"media") -> bytes | None:
    """What the files give for these bytes at a place."""
    where = data_service_pb2.MediaFiles(
        folder=folder.as_uri(),
        paths=[path],
        digests=hashlib.sha256(data).digest(),
        files=[0],
        offsets=[offset],
        sizes_bytes=[len(data)],
    )
    ((digest, found),) = read(files, where)
    assert digest == sha256(data)
    return found.read() if isinstance(found, FileRange) else found


def spoil_by_link(root: Path) -> str:
    (root.parent / "secret").write_bytes(b"media")
    (root / "linked").symlink_to(root.parent / "secret")
    return "linked"


def spoil_by_folder(root: Path) -> str:
    (root / "outside").symlink_to(root.parent, target_is_directory=True)
    (root.parent / "secret").write_bytes(b"media")
    return "outside/secret"


def spoil_by_dots(root: Path) -> str:
    (root.parent / "secret").write_bytes(b"media")
    return "../secret"


def absolute(root: Path) -> str:
    (root / "medium").write_bytes(b"media")
    return str(root / "medium")


def other_bytes(root: Path) -> str:
    (root / "medium").write_bytes(b"Media")
    return "medium"


def empty_name(root: Path) -> str:
    (root / "a").mkdir()
    (root / "a" / "medium").write_bytes(b"media")
    return "a//medium"


def folder(root: Path) -> str:
    (root / "medium").mkdir()
    return "medium"


def cut_off(root: Path) -> str:
    (root / "medium").write_bytes(b"medi")
    return "medium"


@pytest.mark.parametrize(
    "spoil",
    [
        spoil_by_link,
        spoil_by_folder,
        spoil_by_dots,
        empty_name,
        absolute,
        other_bytes,
        folder,
        cut_off,
        lambda _: "gone",
        lambda _: "a/" * 5000 + "medium",
    ],
)
def test_a_link_that_leads_elsewhere_gives_nothing(tmp_path: Path, spoil: Callable[[Path], str]) -> None:
    root = tmp_path / "root"
    root.mkdir()
    files = MediaFiles()
    path = spoil(root)
    assert read_at(files, root, path) is None
    (root / "good").write_bytes(b"some media")
    assert read_at(files, root, "good", 5) == b"media"
    for offset in (6, 2**62, 2**64 - 1):
        assert read_at(files, root, "good", offset) is None
    files.close()


def test_a_file_that_is_not_listed_gives_nothing(tmp_path: Path) -> None:
    where = data_service_pb2.MediaFiles(
        folder=tmp_path.as_uri(), digests=bytes(32), files=[7], offsets=[0], sizes_bytes=[5]
    )
    assert read(MediaFiles(), where) == [("0" * 64, None)]


def test_large_media_that_were_verified_are_read_when_they_are_wanted(tmp_path: Path) -> None:
    files, data = MediaFiles(), bytes(range(256)) * 2048
    (tmp_path / "medium").write_bytes(data)
    where = data_service_pb2.MediaFiles(
        folder=tmp_path.as_uri(),
        paths=["medium"],
        digests=hashlib.sha256(data).digest(),
        files=[0],
        offsets=[0],
        sizes_bytes=[len(data)],
    )
    assert dict(read(files, where)) == {sha256(data): data}
    ((_, later),) = read(files, where)
    assert isinstance(later, FileRange) and len(later) == len(data)
    files.close()
    assert later.read() == data  # whoever has a range keeps its file open
    (tmp_path / "medium").write_bytes(data[:-1])
    assert later.read() is None


def test_a_medium_that_its_disk_does_not_give_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = MediaFiles()
    (tmp_path / "medium").write_bytes(b"media")

    def failing(*_: int) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "pread", failing)
    assert read_at(files, tmp_path, "medium") is None
    where = data_service_pb2.MediaFiles(
        folder=tmp_path.as_uri(), paths=["medium"], digests=bytes(32), files=[0], offsets=[0], sizes_bytes=[5]
    )
    ((_, place),) = files.find(where)
    assert place is not None and place.read() is None


def test_a_file_that_changes_after_it_was_verified_is_verified_again(tmp_path: Path) -> None:
    files, path = MediaFiles(), tmp_path / "medium"
    path.write_bytes(b"media")
    assert read_at(files, tmp_path, "medium") == b"media"
    path.write_bytes(b"MEDIA")
    assert read_at(files, tmp_path, "medium") is None
    files.close()


@pytest.mark.parametrize(("limit", "most"), [(400, MIN_OPEN), (800, 200), (12_000, 3000), (1 << 16, MAX_OPEN)])
def test_files_and_folders_that_are_kept_open_leave_half_of_the_limit_to_others(
    limit: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (limit, limit))
    assert MediaFiles()._max_open == most
