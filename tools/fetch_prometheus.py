"""Finds Prometheus and promtool, or unpacks Debian's package into out/tools: `python -m tools.fetch_prometheus`.

Programs on the path are used as they are. Otherwise the package is downloaded by apt, which checks its signature, and
unpacked; nothing is installed, and no root is needed.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).resolve().parent.parent / "out" / "tools" / "prometheus"
PACKAGE, NAMES = "prometheus", ("prometheus", "promtool")
TIMEOUT_SECONDS = 300
HELP = "Install Prometheus so that `prometheus` and `promtool` are on the path."


class Tools(NamedTuple):
    """Where the two programs are."""

    prometheus: Path
    promtool: Path


class Unavailable(Exception):
    """Prometheus is neither installed nor could be fetched; the message says what to do."""


def find() -> Tools | None:
    """The programs on the path, or those fetched before; None when there are none."""
    on_path = [shutil.which(name) for name in NAMES]
    if all(on_path):
        return Tools(*(Path(found) for found in on_path if found))
    fetched = Tools(*(FOLDER / "usr" / "bin" / name for name in NAMES))
    return fetched if all(program.is_file() for program in fetched) else None


def fetch() -> Tools:
    """The programs, downloaded if missing. Raises Unavailable."""
    found = find()
    if found is not None:
        return found
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise Unavailable(
                f"Prometheus is not installed, and there is no {tool} to fetch Debian's package with. {HELP}"
            )
    FOLDER.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=FOLDER.parent, prefix=".prometheus-") as temporary:
        unpacked = Path(temporary) / "unpacked"
        _run(["dpkg-deb", "--extract", str(_download(Path(temporary))), str(unpacked)], folder=Path(temporary))
        shutil.rmtree(FOLDER, ignore_errors=True)
        unpacked.replace(FOLDER)
    found = find()
    if found is None:
        raise Unavailable(f"Debian's package {PACKAGE} no longer has {' and '.join(NAMES)}. {HELP}")
    return found


def _download(folder: Path) -> Path:
    command = ["apt-get", "download", "--quiet", PACKAGE]
    try:
        _run(command, folder=folder)
    except Unavailable:  # a fresh machine has no package lists, and old lists name files that are gone
        _run(["apt-get", "update", "--quiet"], folder=folder)
        _run(command, folder=folder)
    return next(folder.glob("*.deb"))


def _run(command: list[str], *, folder: Path) -> None:
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise Unavailable(f"`{' '.join(command)}` took more than {TIMEOUT_SECONDS} s. {HELP}") from error
    if done.returncode:
        raise Unavailable(f"`{' '.join(command)}` failed: {done.stderr.strip()[-500:]} {HELP}")


def main() -> None:
    """Fetches, and prints where the programs are."""
    try:
        print(*fetch(), sep="\n")
    except Unavailable as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
