"""Images install the project's wheel, so what is not in the wheel is not in a pod."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tools.build_images import ROOT

PACKAGES = ("buf", "examples", "omnialign", "services", "training")
NOT_SHIPPED = {"README.md", "BUILD.md"}


@pytest.fixture(scope="module")
def wheel_files(tmp_path_factory):
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy2(ROOT / name, source)
    for name in PACKAGES:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*command, "--wheel-dir", source / "dist", source], check=True)
    (wheel,) = (source / "dist").glob("*.whl")
    return set(zipfile.ZipFile(wheel).namelist())


def test_the_wheel_holds_every_file_of_the_packages(wheel_files):
    files = {
        str(path.relative_to(ROOT))
        for name in PACKAGES
        for path in (ROOT / name).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.name not in NOT_SHIPPED
    }
    assert not files - wheel_files


def test_the_wheel_holds_no_test_and_no_tool(wheel_files):
    tops = {Path(name).parts[0] for name in wheel_files}
    assert {top for top in tops if not top.endswith(".dist-info")} == set(PACKAGES)
