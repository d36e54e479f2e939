"""What each image leaves out is not missed by what runs in it."""

import ast
import importlib.metadata
import importlib.util
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tools.build_images import ROOT

PROGRAMS = {
    "services": (
        "services.data.__main__",
        "services.alignment.__main__",
        "services.evaluation.__main__",
        "services.annotation.__main__",
        "services.console.__main__",
        "services.training.__main__",
        "services.gateway.__main__",
        "services.migrate",
        "omnialign.cli.main",
        # What `helm test` and the demo on a cluster import late.
        "examples.example examples.tinyworld.dataset examples.tinyworld.recipe omnialign.cli.data omnialign.cli.jobs"
        " omnialign.cli.job_view omnialign.cli.spec omnialign.cli.uploads",
    ),
    "inference": ("services.pool",),
    "training": ("training.pod", "training.runner", "training.__main__"),
}
"""By extra, what an image with it and no other runs."""

OWN = {"omnialign", "services", "training", "examples", "buf", "tools", "benchmarks"}

PROGRAM = """
import importlib, importlib.machinery, sys

hidden_modules, hidden_distributions = set({modules!r}), set({distributions!r})

class Image(importlib.machinery.PathFinder):
    # Finds what the image holds, and says of the rest what Python says of what is not installed.
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        hidden = name.partition(".")[0] in hidden_modules
        return None if hidden else super().find_spec(name, path, target)

    @classmethod
    def find_distributions(cls, *arguments, **options):
        for found in super().find_distributions(*arguments, **options):
            if found.metadata["Name"] not in hidden_distributions:
                yield found

sys.meta_path[:] = [Image if finder is importlib.machinery.PathFinder else finder for finder in sys.meta_path]
for module in {module!r}.split():
    importlib.import_module(module)
"""


OWNERS = importlib.metadata.packages_distributions()


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def closure(lines: list[str]) -> set[str]:
    """The distributions that requirements bring, all the way down, as far as they are installed here."""
    from packaging.requirements import Requirement

    found, waiting = set(), [Requirement(line) for line in lines]
    while waiting:
        requirement = waiting.pop()
        key = canonical(requirement.name)
        if (key, frozenset(requirement.extras)) in found:
            continue
        found.add((key, frozenset(requirement.extras)))
        try:
            below = importlib.metadata.requires(requirement.name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        for line in map(Requirement, below):
            contexts = [{"extra": extra} for extra in requirement.extras] or [{"extra": ""}]
            if line.marker is None or any(line.marker.evaluate(context) for context in contexts):
                waiting.append(line)
    return {name for name, _ in found}


def requirements(*extras: str) -> list[str]:
    specification = importlib.util.spec_from_file_location("install", ROOT / "images" / "install.py")
    install = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(install)
    return list(install.requirements(tomllib.loads((ROOT / "pyproject.toml").read_text()), extras))


def modules_of(distributions: set[str]) -> set[str]:
    return {module for module, names in OWNERS.items() if {canonical(name) for name in names} & distributions}


@pytest.mark.parametrize(
    ("extra", "module"), [(extra, module) for extra, modules in PROGRAMS.items() for module in modules]
)
def test_the_program_starts_with_only_what_its_image_holds(extra, module):
    held = closure(requirements("project", extra))
    modules = OWNERS.keys() - modules_of(held) - OWN
    distributions = {
        found.metadata["Name"] for found in importlib.metadata.distributions() if canonical(found.name) not in held
    }
    assert "torch" in modules or extra != "services"
    program = PROGRAM.format(modules=sorted(modules), distributions=sorted(distributions), module=module)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]


def imported(folder: Path) -> dict[str, set[str]]:
    """Top-level modules that the code below a folder imports anywhere, lazily too, by the files that do.

    An import that may fail, in a `try` with a handler, is not counted.
    """
    found: dict[str, set[str]] = {}
    for path in folder.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        optional = {id(node) for block in ast.walk(tree) if isinstance(block, ast.Try) for node in block.body}
        for node in ast.walk(tree):
            for name in () if id(node) in optional else _names(node):
                found.setdefault(name.partition(".")[0], set()).add(str(path.relative_to(ROOT)))
    return {name: files for name, files in found.items() if name not in OWN and name not in sys.stdlib_module_names}


def _names(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module or ""] if isinstance(node, ast.ImportFrom) and node.level == 0 else []


@pytest.mark.parametrize(
    ("folder", "extra"),
    [
        ("omnialign/client", None),
        ("omnialign/cli", None),
        ("omnialign/exchange", None),
        ("services/data", "services"),
        ("services/alignment", "services"),
        ("services/evaluation", "services"),
        ("services/annotation", "services"),
        ("services/console", "services"),
        ("services/pipeline", "services"),
        ("services/training", "services"),
        ("services/runtime", "services"),
        ("services/gateway", "services"),
        ("services/inference", "inference"),
        ("services/critique", "inference"),
        ("services/refinement", "inference"),
        ("services/judge", "inference"),
        ("omnialign/modeling", "inference"),
        ("omnialign/modeling", "training"),
        ("training", "training"),
    ],
)
def test_what_a_folder_imports_even_lazily_is_declared_by_its_extra(folder, extra):
    groups = ["project", extra] if extra else ["project"]
    declared = modules_of({canonical(re.match(r"[A-Za-z0-9._-]+", line)[0]) for line in requirements(*groups)})
    missing = {name: files for name, files in imported(ROOT / folder).items() if name not in declared}
    # vLLM brings a PyTorch of its own, so it is never an extra of ours; only the engine that runs it imports it.
    vllm = missing.pop("vllm", set())
    assert all(Path(path).is_relative_to("services/inference/vllm") for path in vllm)
    assert not missing
