"""Writes the hashes of all files that a lock allows: `python -m tools.hash_locks FILE...`.

A lock is a file of `name==version` lines. Each line gets the SHA-256 of every file of that version that the package
index offers for CPython 3.11 or later on Linux and macOS: its wheels, or its source where it has no wheel. pip installs
nothing else from it (`--require-hashes`). `--wheels` adds files that no index has, such as a CPU build of torch.

The index is pip's (`PIP_INDEX_URL`, or PyPI), asked through its JSON interface (PEP 691).
"""

import argparse
import hashlib
import os
import re
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import urllib3
from packaging.tags import Tag
from packaging.utils import (
    InvalidSdistFilename,
    InvalidWheelFilename,
    canonicalize_name,
    parse_sdist_filename,
    parse_wheel_filename,
)
from packaging.version import Version
from pip._internal.models.index import PyPI

PIN = re.compile(r"(?P<name>[A-Za-z0-9._-]+)==(?P<version>[^\s\\]+)")
ANSWER = "application/vnd.pypi.simple.v1+json"
PLATFORM = re.compile(r"any|(?:manylinux|linux|macosx)\w*_(?:x86_64|aarch64|arm64|universal2)")
PYTHON = re.compile(r"py3|(?:py|cp)31[1-9]")
DEADLINE_SECONDS = 60


def main(arguments: Sequence[str] | None = None) -> int:
    """Rewrites the locks, and returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("locks", nargs="+", type=Path)
    parser.add_argument("--wheels", type=Path, help="a folder of wheels that no index has")
    given = parser.parse_args(arguments)
    extra = list(given.wheels.glob("*.whl")) if given.wheels else []
    for lock in given.locks:
        lock.write_text(hashed(lock.read_text(), extra))
    return 0


def hashed(lock: str, extra: Iterable[Path] = ()) -> str:
    """The lock with today's hashes; comments stay. LookupError: a version of which the index has no file."""
    lines = [line for line in lock.splitlines() if not line.lstrip().startswith("--hash")]
    pins = [(match["name"], match["version"]) for line in lines if (match := PIN.match(line))]
    with ThreadPoolExecutor(8) as pool:
        hashes = dict(zip(pins, pool.map(lambda pin: digests(pin[0], pin[1], extra), pins), strict=True))
    comments = [line for line in lines if line.startswith("#")]
    return "".join(f"{line}\n" for line in [*comments, *(_entry(*pin, hashes[pin]) for pin in pins)])


def digests(name: str, version: str, extra: Iterable[Path]) -> list[str]:
    """The SHA-256 of each file of one version, in hexadecimal digits, sorted."""
    files = _files(name) | {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in extra}
    wheels = [digest for file, digest in files.items() if _is_wheel(file, name, version)]
    found = wheels or [digest for file, digest in files.items() if _is_source(file, name, version)]
    if not found:
        raise LookupError(f"The package index has no file of {name} {version} for this project's platforms.")
    return sorted(found)


def _files(name: str) -> dict[str, str]:
    """The SHA-256 of each file of a package."""
    index = os.environ.get("PIP_INDEX_URL") or PyPI.simple_url
    page = f"{index.rstrip('/')}/{canonicalize_name(name)}/"
    answer = urllib3.request("GET", page, headers={"Accept": ANSWER}, timeout=DEADLINE_SECONDS)
    if answer.status != 200:
        raise LookupError(f"The package index answers {answer.status} for {name}.")
    return {file["filename"]: file["hashes"]["sha256"] for file in answer.json()["files"]}


def _is_wheel(file: str, name: str, version: str) -> bool:
    try:
        of, found, _, tags = parse_wheel_filename(file)
    except InvalidWheelFilename:
        return False
    return of == canonicalize_name(name) and _satisfies(found, version) and any(map(_runs_here, tags))


def _satisfies(found: Version, version: str) -> bool:
    """Whether the pin takes it: a pin without a local version takes every build (PEP 440)."""
    pin = Version(version)
    return found == pin or (pin.local is None and found.public == pin.public)


def _runs_here(tag: Tag) -> bool:
    stable = tag.abi == "abi3" and tag.interpreter.startswith("cp3")
    return bool((stable or PYTHON.fullmatch(tag.interpreter)) and PLATFORM.fullmatch(tag.platform))


def _is_source(file: str, name: str, version: str) -> bool:
    try:
        return parse_sdist_filename(file) == (canonicalize_name(name), Version(version))
    except InvalidSdistFilename:
        return False


def _entry(name: str, version: str, digests: Iterable[str]) -> str:
    return f"{name}=={version}" + "".join(f" \\\n    --hash=sha256:{digest}" for digest in digests)


if __name__ == "__main__":
    sys.exit(main())
