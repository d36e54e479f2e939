"""The committed stubs are those of protos/, and the generator says so when they are not."""

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from google.protobuf import descriptor_pb2

ROOT = Path(__file__).resolve().parents[2]
TOOL = ROOT / "tools" / "generate_protos.py"


@pytest.fixture
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate_protos", TOOL)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def tree(tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the committed stubs that the tool takes for the repository."""
    for folder in tool.GENERATED:
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(tool, "ROOT", tmp_path)
    return tmp_path


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(TOOL), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_committed_stubs_are_current() -> None:
    result = run("--check")
    assert result.returncode == 0, result.stderr


def test_image_holds_comments_and_all_imports(tmp_path: Path) -> None:
    image = tmp_path / "image.binpb"
    assert run("--image", str(image)).returncode == 0
    files = descriptor_pb2.FileDescriptorSet.FromString(image.read_bytes()).file
    names = {file.name for file in files}
    assert all(dependency in names for file in files for dependency in file.dependency)
    ours = [file for file in files if file.package == "omnialign.v1"]
    assert ours and all(file.source_code_info.location for file in ours)


def test_differences_name_changed_missing_and_surplus_files(tool: ModuleType, tree: Path) -> None:
    (tree / "omnialign/v1/content_pb2.py").write_text("changed")
    (tree / "omnialign/v1/model_pb2.py").unlink()
    (tree / "buf/validate/old_pb2.py").write_text("surplus")
    found = [str(path) for path in tool.differences(ROOT)]
    assert found == ["buf/validate/old_pb2.py", "omnialign/v1/content_pb2.py", "omnialign/v1/model_pb2.py"]


def test_install_mends_every_difference(tool: ModuleType, tree: Path) -> None:
    (tree / "omnialign/v1/content_pb2.py").write_text("changed")
    (tree / "omnialign/v1/model_pb2.py").unlink()
    (tree / "buf/validate/old_pb2.py").write_text("surplus")
    tool.install(ROOT)
    assert tool.differences(ROOT) == []
    assert not list(tree.rglob("*.new"))
