"""Checkpoints are complete or do not exist."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from omnialign.errors import FailedPrecondition
from training import checkpoint

SHAPE = {"num_processes": 2, "zero_stage": 2}


def write(root: Path, step: int) -> Path:
    staged = checkpoint.staging_dir(root, step=step)
    (staged / "inner").mkdir(parents=True)
    (staged / "weights").write_bytes(bytes([step] * 100))
    (staged / "inner" / "optimizer").write_bytes(b"state")
    return checkpoint.commit(staged, root, step=step, shape=SHAPE)


def test_the_newest_is_found_and_only_two_are_kept(tmp_path: Path):
    for step in (5, 10, 15):
        write(tmp_path, step)
    assert checkpoint.newest(tmp_path, shape=SHAPE) == tmp_path / "step-00000015"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000010", "step-00000015"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(name=st.sampled_from(["weights", "inner/optimizer", "manifest.json"]), keep=st.integers(0, 4))
def test_a_torn_file_makes_a_checkpoint_invisible(tmp_path_factory, name: str, keep: int):
    root = tmp_path_factory.mktemp("checkpoints")
    write(root, 5)
    torn = write(root, 10) / name
    torn.write_bytes(torn.read_bytes()[:keep])
    assert checkpoint.newest(root, shape=SHAPE) == root / "step-00000005"


def test_a_missing_file_and_a_staging_folder_are_ignored(tmp_path: Path):
    (write(tmp_path, 5) / "weights").unlink()
    (checkpoint.staging_dir(tmp_path, step=10)).mkdir()
    assert checkpoint.newest(tmp_path, shape=SHAPE) is None


def test_a_checkpoint_of_another_shape_is_a_typed_error(tmp_path: Path):
    write(tmp_path, 5)
    with pytest.raises(FailedPrecondition) as caught:
        checkpoint.newest(tmp_path, shape={"num_processes": 1, "zero_stage": 2, "learning_rate": 0.1})
    assert caught.value.reason == "CHECKPOINT_INCOMPATIBLE"
    assert "num_processes was 2 and is 1" in caught.value.message


def test_checkpoints_that_are_all_damaged_are_said_before_the_run_begins_again(tmp_path: Path, caplog):
    (write(tmp_path, 5) / "weights").write_bytes(b"torn")
    assert checkpoint.newest(tmp_path, shape=SHAPE) is None
    assert "step-00000005 is damaged" in caplog.text
    assert "none of the 1 checkpoints" in caplog.text
