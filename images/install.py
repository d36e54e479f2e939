"""Fills an image's environment: what is locked and nothing else, without pip, caches or a compiler left inside.

Runs in the builder stage of every Dockerfile, in two steps so that a changed source line keeps the layer of the
dependencies: `dependencies EXTRA...` and then `project`. Needs nothing but Python's own library and its venv module.
Files are fetched first and installed when their hashes stand in the lock; nothing of them runs before.

How the outside world is reached comes from build arguments and secrets, and none of it is kept: PIP_INDEX_URL,
/run/secrets/pip.conf, /run/secrets/ca.pem (extra certificate authorities) and /wheels (wheels that no index has).
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

PREFIX = Path("/opt/omnialign")
TOOLS = Path("/opt/tools")
LOCK = Path("constraints.txt")
VLLM_LOCK = Path("vllm.txt")
CHOSEN_LOCK = Path("lock.txt")
VERSIONS = Path("versions.txt")
CHOSEN_FILES = Path("files.txt")
FETCHED = Path("fetched")
WHEELS = Path("/wheels")
PIP_CONFIG = Path("/run/secrets/pip.conf")
AUTHORITIES = Path("/run/secrets/ca.pem")
ENVIRONMENT_TOOLS = {"pip", "setuptools"}
HASHED = ("--require-hashes", "--no-deps", "--requirement")
OFFLINE = ("--no-index", "--find-links", str(FETCHED))

_NAME = re.compile(r"[A-Za-z0-9._-]+")
_EXTRAS = re.compile(r"omnialign\[(?P<extras>[^\]]*)\]")
_PIN = re.compile(r"(?m)^(?P<name>[A-Za-z0-9._-]+)===?(?P<version>[^\s\\]+)(?P<hashes>(?:[ \t]*\\\n[ \t]+--hash=\S+)*)")
_EXACT = re.compile(r"(?P<name>[A-Za-z0-9._-]+)(\[[^\]]*\])?\s*\(?\s*==(?P<version>[^\s;,)*]+)\)?\s*(;.*)?$")

_DISTRIBUTIONS = """
import importlib.metadata, json
print(json.dumps([[d.metadata["Name"], d.version, d.requires or []] for d in importlib.metadata.distributions()]))
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one step and returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    steps = parser.add_subparsers(dest="step", required=True)
    dependencies = steps.add_parser("dependencies", help="install what the project and its extras need")
    dependencies.add_argument("extras", nargs="+", help="extras, or `project` for what every install needs")
    dependencies.add_argument(
        "--torch",
        choices=("cpu", "cuda", "vllm"),
        help="which build of torch to insist on; vllm: with CUDA, under vLLM",
    )
    dependencies.add_argument("--without", nargs="+", default=[], help="packages that another step installs")
    deepspeed = steps.add_parser("deepspeed", help="build DeepSpeed with its operations compiled ahead")
    deepspeed.add_argument("operations", nargs="*")
    steps.add_parser("project", help="build the project's wheel and install it")
    given = parser.parse_args(arguments)
    {
        "dependencies": install_dependencies,
        "deepspeed": install_deepspeed,
        "project": install_project,
    }[given.step](given)
    return 0


def install_dependencies(given: argparse.Namespace) -> None:
    """Makes the environment and installs the locked requirements of the extras."""
    if given.torch == "vllm" and not shutil.which("gcc"):
        raise SystemExit("vLLM's kernels are compiled when they first run: build it on a BASE_IMAGE that holds gcc.")
    make_environment(PREFIX)
    named = requirements(tomllib.loads(Path("pyproject.toml").read_text()), given.extras)
    wanted = [line for line in named if _name(line) not in given.without]
    lock = LOCK.read_text()
    if given.torch == "vllm":
        lock, wanted = lock_over(lock, VLLM_LOCK.read_text()), [*wanted, "vllm"]
    CHOSEN_LOCK.write_text(variant_lock(lock, torch=given.torch))
    install_wheels(wanted)
    finish(PREFIX, CHOSEN_LOCK)


def install_deepspeed(given: argparse.Namespace) -> None:
    """Builds DeepSpeed against the torch of the environment, which has to be there, with operations compiled in.

    An operation that is not compiled in is compiled by the first pod that wants it, and pods have no compiler.
    """
    install_wheels(["setuptools", "ninja", "py-cpuinfo"])
    flags = {f"DS_BUILD_{operation}": "1" for operation in given.operations}
    settings = {"DS_BUILD_OPS": "0", "DS_ACCELERATOR": "cpu", "PATH": f"{PREFIX / 'bin'}:{os.environ['PATH']}", **flags}
    CHOSEN_FILES.write_text(lines_of(CHOSEN_LOCK.read_text(), ["deepspeed"]))
    pip("install", "--no-compile", "--no-build-isolation", *HASHED, str(CHOSEN_FILES), environment=settings)
    found = installed(PREFIX)
    present = {_canonical(name) for name, *_ in found}
    needed = (line for name, _, lines in found if name == "deepspeed" for line in lines if "extra ==" not in line)
    install_wheels(line for line in needed if _canonical(_name(line)) not in present)
    finish(PREFIX, CHOSEN_LOCK)


def install_wheels(wanted: Iterable[str]) -> None:
    """Installs requirements, and what they require, from wheels whose hashes stand in the chosen lock.

    Only what a locked package asks for in one exact version may come without a hash: the libraries that each build of
    torch brings along, which differ between builds. `finish` refuses everything else.
    """
    named, lock = list(wanted), CHOSEN_LOCK.read_text()
    VERSIONS.write_text(without_hashes(lock))
    pip("download", "--only-binary", ":all:", "--constraint", str(VERSIONS), "--dest", str(FETCHED), *named)
    fetched = {_canonical(wheel.name.partition("-")[0]) for wheel in FETCHED.glob("*.whl")}
    CHOSEN_FILES.write_text(lines_of(lock, fetched))
    pip("install", "--no-compile", *OFFLINE, *HASHED, str(CHOSEN_FILES))
    pip("install", "--no-compile", *OFFLINE, *named)
    shutil.rmtree(FETCHED)


def install_project(given: argparse.Namespace) -> None:
    """Builds the wheel of the source in the working folder and installs it, without asking any index."""
    del given
    wheels = Path("dist")
    run(TOOLS / "bin/pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", wheels, ".")
    pip("install", "--no-compile", "--no-deps", "--no-index", *map(str, wheels.glob("*.whl")))
    compile_bytecode(PREFIX)


def make_environment(prefix: Path) -> None:
    """An empty environment without pip, and beside it, once, the tools that fill environments."""
    run(sys.executable, "-m", "venv", "--without-pip", prefix)
    if not TOOLS.exists():
        run(sys.executable, "-m", "venv", TOOLS)
        CHOSEN_FILES.write_text(lines_of(LOCK.read_text(), ["setuptools"]))
        run(TOOLS / "bin/pip", "install", *HASHED, CHOSEN_FILES, environment=pip_environment())


def pip(*arguments: str, environment: dict[str, str] | None = None) -> None:
    """Runs pip on the image's environment, which has none."""
    target: tuple[str | Path, ...] = ("--python", PREFIX / "bin/python")
    run(TOOLS / "bin/pip", *target, *arguments, environment=pip_environment() | (environment or {}))


def pip_environment() -> dict[str, str]:
    """How pip reaches packages here: nothing cached, and only settings that were handed to this build."""
    settings = {"PIP_NO_CACHE_DIR": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_ROOT_USER_ACTION": "ignore"}
    if PIP_CONFIG.is_file() and PIP_CONFIG.stat().st_size:
        settings["PIP_CONFIG_FILE"] = str(PIP_CONFIG)
    if AUTHORITIES.is_file() and AUTHORITIES.stat().st_size:
        settings |= {"PIP_CERT": str(AUTHORITIES), "SSL_CERT_FILE": str(AUTHORITIES)}
    if WHEELS.is_dir() and any(WHEELS.glob("*.whl")):
        settings["PIP_FIND_LINKS"] = str(WHEELS)
    return settings


def requirements(project: dict[str, Any], extras: Iterable[str]) -> Iterator[str]:
    """The requirement lines of extras, each once, other extras among them resolved; `project` names its own."""
    groups = project["project"]["optional-dependencies"] | {"project": project["project"]["dependencies"]}
    waiting, seen, named = list(extras), set[str](), set[str]()
    while waiting:
        if (extra := waiting.pop(0)) in seen:
            continue
        seen.add(extra)
        for line in groups[extra]:
            if match := _EXTRAS.fullmatch(line):
                waiting += match["extras"].split(",")
            elif line not in named:
                named.add(line)
                yield line


def pinned(lock: str) -> dict[str, str]:
    """The versions of a lock file by canonical name."""
    return {_canonical(match["name"]): match["version"] for match in _PIN.finditer(lock)}


def lines_of(lock: str, names: Iterable[str]) -> str:
    """What a lock says of these packages, hashes included."""
    wanted = set(names)
    return "".join(f"{match[0]}\n" for match in _PIN.finditer(lock) if _canonical(match["name"]) in wanted)


def without_hashes(lock: str) -> str:
    """The versions alone: pip takes hashes in requirements, but not in constraints."""
    return "".join(f"{match[0].removesuffix(match['hashes'])}\n" for match in _PIN.finditer(lock))


def variant_lock(lock: str, *, torch: str | None) -> str:
    """The lock with one build of torch insisted on: a missing CPU build would else become 6 GB of CUDA, unasked."""
    pin = {None: r"torch==\1", "cpu": r"torch==\1+cpu"}.get(torch, r"torch===\1")
    return re.sub(r"(?m)^torch==([^\s+\\]+)", pin, lock)


def lock_over(lock: str, over: str) -> str:
    """Two lock files as one; the second has the last word."""
    return lines_of(lock, pinned(lock).keys() - pinned(over).keys()) + lines_of(over, pinned(over))


def drift(found: Sequence[tuple[str, str, Sequence[str]]], pins: dict[str, str]) -> list[str]:
    """What is installed, as (name, version, requirements), but not locked.

    Locked is what has its pin, and what something locked asks for in one exact version: the libraries that each build
    of torch brings along.
    """
    exact = {
        (_canonical(m["name"]), m["version"]) for *_, lines in found for line in lines if (m := _EXACT.match(line))
    }
    return sorted(
        f"{name}=={version}"
        for name, version, _ in found
        if _canonical(name) not in ENVIRONMENT_TOOLS | {"omnialign"}
        and pins.get(_canonical(name), "").partition("+")[0] != version.partition("+")[0]
        and (_canonical(name), version) not in exact
    )


def finish(prefix: Path, lock: Path) -> None:
    """Refuses what is not locked, drops what nothing reads at run time, compiles the rest."""
    if unlocked := drift(installed(prefix), pinned(lock.read_text())):
        raise SystemExit(f"Not in {LOCK}: {', '.join(unlocked)}. Pin them there and build again.")
    for folder in [*prefix.glob("lib/python*/site-packages/*/tests"), *prefix.glob("include")]:
        shutil.rmtree(folder)
    compile_bytecode(prefix)


def installed(prefix: Path) -> list[tuple[str, str, list[str]]]:
    """(name, version, requirements) of everything in an environment."""
    command = [prefix / "bin/python", "-c", _DISTRIBUTIONS]
    listed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return [tuple(distribution) for distribution in json.loads(listed)]


def compile_bytecode(prefix: Path) -> None:
    """Compiles every module once, by content: the root file system is read-only, and layers may change times."""
    arguments = ("-m", "compileall", "-qq", "-j", "0", "--invalidation-mode", "unchecked-hash", prefix / "lib")
    subprocess.run([prefix / "bin/python", *map(str, arguments)], check=False)  # some packages ship templates


def run(*command: str | Path, environment: dict[str, str] | None = None) -> None:
    """Runs a program that has to succeed."""
    inherited = {name: value for name, value in os.environ.items() if not (name == "PIP_INDEX_URL" and not value)}
    subprocess.run([str(part) for part in command], check=True, env=inherited | (environment or {}))


def _name(requirement: str) -> str:
    match = _NAME.match(requirement)
    return match[0] if match else requirement


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    sys.exit(main())
