"""Paths of uploads: whatever is let in names a file below the folder it is written to. And what the sweep removes."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from omnialign.errors import InvalidArgument
from services.data.config import DataConfig
from services.data.objects import open_objects
from services.data.upload_receiver import MAX_PATH_BYTES, check_path
from services.data.uploads import Uploads, is_upload
from services.data.usage import Usage

PARTS = st.text(st.sampled_from("ab./\\\0\n é\ud800"), max_size=12)


@given(st.one_of(PARTS, st.text(max_size=40)))
@example("/etc/passwd")
@example("a/../../b")
@example("..")
@example("a/./b")
@example("a//b")
@example("")
def test_a_path_is_refused_or_names_a_file_below_the_folder(path: str) -> None:
    try:
        check_path(path)
    except InvalidArgument as error:
        assert error.reason == "UPLOAD_PATH_INVALID"
        return
    root = Path("/srv/folder")
    target = (root / path).resolve()
    assert target.is_relative_to(root) and target != root
    assert target.relative_to(root).as_posix() == path
    assert len(path.encode()) <= MAX_PATH_BYTES
    assert path.isprintable() or not any(ord(letter) < 32 for letter in path)


@pytest.mark.parametrize("path", ["config.json", "deep/er/model.safetensors", "with blank.txt", ".hidden", "é", "a..b"])
def test_paths_of_files_as_people_have_them_are_let_in(path: str) -> None:
    assert check_path(path) == path


def test_only_names_of_uploads_are_uploads() -> None:
    assert is_upload("projects/p/uploads/" + "0" * 32)
    for other in ("/tmp/x", "file:///tmp/x", "projects/p/models/m", "s3://bucket/x"):
        assert not is_upload(other)


def test_the_sweep_removes_the_folders_of_killed_imports_but_not_one_that_still_grows(
    tmp_path: Path, usage: Usage
) -> None:
    config, scratch = DataConfig(root=tmp_path, upload_seconds=3600), tmp_path / "incoming"
    scratch.mkdir()
    for name in ("import-dead", "import-alive", "important"):
        (tmp_path / name / "t2t").mkdir(parents=True)
        (tmp_path / name / "t2t" / "train.jsonl").write_text("{}")
    for path in (scratch, *tmp_path.rglob("*")):
        if path.name != "train.jsonl" or "import-alive" not in path.parts:
            os.utime(path, (1, 1))
    with ThreadPoolExecutor(1) as pool:
        objects = open_objects(config, registry=CollectorRegistry())
        Uploads(config, objects=objects, scratch=scratch, pool=pool, usage=usage).remove_expired()
    assert not (tmp_path / "import-dead").exists()
    assert (tmp_path / "import-alive" / "t2t" / "train.jsonl").exists()
    assert (tmp_path / "important").exists()
