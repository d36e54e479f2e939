"""Builds the container images with buildah or docker, whichever works here, prints their sizes, and tries them out.

    python tools/build_images.py                                   # all of them, from the base image that is pinned
    python tools/build_images.py service --base-image HOST/python:3.11-slim --prefix HOST/omnialign --tag 1.2.3
    python tools/build_images.py --save out/images                 # also as archives, for nodes without a registry

Unless an option says otherwise, the build reaches packages as pip does in this environment (PIP_INDEX_URL,
PIP_FIND_LINKS, PIP_CONFIG_FILE, PIP_CERT). None of these settings ends up in an image.
"""

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tools.check_images import CHECKS, check_image

ROOT = Path(__file__).resolve().parent.parent
NAMES = ("service", "inference", "trainer", "evaluation")
GIB = 1 << 30


@dataclass(frozen=True)
class Plan:
    """What to build, with what, under which names."""

    engine: tuple[str, ...]
    prefix: str
    tag: str
    arguments: dict[str, str]
    secrets: dict[str, Path]
    wheels: Path | None

    @property
    def program(self) -> str:
        """`buildah` or `docker`: both take the same options here, except for three verbs."""
        return Path(self.engine[0]).name

    def reference(self, name: str) -> str:
        """The image's full name."""
        return f"{self.prefix}/{name}:{self.tag}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Builds, measures, saves and checks; returns 1 if an image fails its checks."""
    given = _parser().parse_args(arguments)
    plan = make_plan(given)
    names = tuple(given.images) or NAMES
    if given.variant == "vllm" and names != ("inference",):
        raise SystemExit("Only the inference image has the variant vllm: name it alone, and build the others as cuda.")
    for name in names:
        started = time.monotonic()
        if not given.check_only:
            build(plan, name)
        seconds = time.monotonic() - started
        print(f"{plan.reference(name)}: {size_bytes(plan, name) / GIB:.2f} GiB, {seconds:.0f} s", flush=True)
        if given.save:
            print(f"  saved as {save(plan, name, given.save)}", flush=True)
    return 0 if given.no_check else check(plan, names)


def check(plan: Plan, names: Sequence[str]) -> int:
    """Starts a container of each image and checks that it does its job; returns 1 if one does not."""
    failed = 0
    for name in names:
        for title, problem in check_image(plan.engine, plan.reference(name), CHECKS[name]):
            print(f"{'FAILED' if problem else 'ok'}  {name}: {title}{f': {problem}' if problem else ''}", flush=True)
            failed += bool(problem)
    return 1 if failed else 0


def make_plan(given: argparse.Namespace) -> Plan:
    """Combines the options with this environment. Raises SystemExit if there is nothing to build with."""
    engine = tuple(shlex.split(given.engine)) if given.engine else find_engine()
    if not engine:
        raise SystemExit("Neither buildah nor a running docker was found: install one, or name it with --engine.")
    # RUN steps in a plain chroot: works without privileges of its own, and these are our own build files.
    os.environ.setdefault("BUILDAH_ISOLATION", "chroot")
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    arguments = {
        "VERSION": version,
        "REVISION": revision(),
        "SOURCE": given.source,
        "VARIANT": given.variant,
        "BASE_IMAGE": given.base_image,
        "PIP_INDEX_URL": given.index,
    }
    return Plan(
        engine=engine,
        prefix=given.prefix,
        tag=given.tag or version,
        arguments={name: value for name, value in arguments.items() if value},
        secrets={k: v for k, v in {"pip": given.pip_config, "ca": given.ca}.items() if v and v.is_file()},
        wheels=given.wheels if given.wheels and given.wheels.is_dir() else None,
    )


def find_engine() -> tuple[str, ...]:
    """The first of buildah and docker that is installed and answers."""
    for program in ("buildah", "docker"):
        if shutil.which(program) and subprocess.run([program, "info"], capture_output=True).returncode == 0:
            return (program,)
    return ()


def build(plan: Plan, name: str) -> None:
    """Builds one image from its file; raises CalledProcessError with the engine's output on the terminal."""
    command = [*plan.engine, "build", *build_options(plan, name), str(ROOT)]
    subprocess.run(command, check=True)


def build_options(plan: Plan, name: str) -> Iterator[str]:
    """The options of a build, the same for both engines."""
    yield from ("--file", str(ROOT / "images" / f"{name}.Dockerfile"), "--tag", plan.reference(name))
    if plan.program == "buildah":
        yield "--layers"  # as docker does by itself: a changed source line keeps the layers of the dependencies
    declared = (ROOT / "images" / f"{name}.Dockerfile").read_text(encoding="utf-8")
    for argument, value in plan.arguments.items():
        if f"ARG {argument}" in declared:
            yield from ("--build-arg", f"{argument}={value}")
    for secret, path in plan.secrets.items():
        yield from ("--secret", f"id={secret},src={path}")
    if plan.wheels:
        yield from ("--build-context", f"wheels={plan.wheels}")


def size_bytes(plan: Plan, name: str) -> int:
    """The size of an image, unpacked."""
    if plan.program == "docker":
        command = [*plan.engine, "image", "inspect", "--format", "{{.Size}}", plan.reference(name)]
        return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    container = _output(*plan.engine, "from", "--pull-never", plan.reference(name))
    try:
        root = Path(_output(*plan.engine, "mount", container))
        return sum(path.lstat().st_size for path in root.rglob("*") if path.is_file() and not path.is_symlink())
    finally:
        _output(*plan.engine, "rm", container)


def save(plan: Plan, name: str, folder: Path) -> Path:
    """Writes an image as an archive that `ctr images import` and `docker load` read, replacing an existing one."""
    folder.mkdir(parents=True, exist_ok=True)
    path, reference = folder / f"{name}-{plan.tag}.tar", plan.reference(name)
    path.unlink(missing_ok=True)
    if plan.program == "docker":
        _output(*plan.engine, "save", "--output", str(path), reference)
    else:
        _output(*plan.engine, "push", "--quiet", reference, f"docker-archive:{path}:{reference}")
    return path


def revision() -> str:
    """The commit being built, marked if files differ from it; empty outside a checkout."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


def _output(*command: str) -> str:
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def _path(*variables: str) -> Path | None:
    return next((Path(os.environ[name]) for name in variables if os.environ.get(name)), None)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    say = parser.add_argument
    say("images", nargs="*", choices=(*NAMES, []), metavar="IMAGE", help=f"which ones: {', '.join(NAMES)}; default all")
    say("--engine", default=os.environ.get("IMAGES_ENGINE"), help="buildah or docker, with options of its own")
    say("--prefix", default="omnialign", help="registry and folder that the names begin with (%(default)s)")
    say("--tag", help="default: the project's version")
    say(
        "--variant",
        default="cpu",
        choices=("cpu", "cuda", "vllm"),
        help="which torch inference and trainer hold (%(default)s); vllm is for inference alone",
    )
    say(
        "--base-image", help="Debian-like, with Python 3.11 and its venv module; default: pinned in images/*.Dockerfile"
    )
    say("--source", default="", help="the address of the source, for the image's label")
    say("--index", default=os.environ.get("PIP_INDEX_URL"), help="the package index")
    say("--pip-config", type=Path, default=_path("PIP_CONFIG_FILE"), help="a pip.conf, for indexes that need more")
    say("--ca", type=Path, default=_path("PIP_CERT", "SSL_CERT_FILE"), help="certificate authorities to reach it with")
    say("--wheels", type=Path, default=_path("PIP_FIND_LINKS"), help="a folder of wheels that the index lacks")
    say("--save", type=Path, metavar="FOLDER", help="also write archives, which `ctr images import` reads")
    say("--no-check", action="store_true", help="only build")
    say("--check-only", action="store_true", help="only start and check images that are built")
    return parser


if __name__ == "__main__":
    sys.exit(main())
