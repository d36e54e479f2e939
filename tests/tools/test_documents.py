"""What the documents tell a reader to run, open or look at exists."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from packaging.utils import canonicalize_name
from typer.core import TyperGroup

from omnialign.cli.main import app

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", ROOT / "protos/README.md"]
PAGES += sorted((ROOT / "docs").glob("*.md"))
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))


def ids(path: Path) -> str:
    return str(path.relative_to(ROOT))


def mapped_paths() -> Iterator[str]:
    """Paths of the repository map in the README; an indented one lies in the folder above it."""
    text = (ROOT / "README.md").read_text()
    listing = text.split("## Where things are")[1].split("```")[1]
    folder = ""
    for line in filter(None, listing.splitlines()):
        names = re.split(r" {2,}", line.strip())[0].split()
        if not line.startswith(" "):
            folder = names[0]
        yield from (names if not line.startswith(" ") else [folder + name for name in names])


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)", page.read_text())
    broken = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert broken == []


def test_pictures_are_small_and_all_are_shown() -> None:
    shown = {name for page in PAGES for name in re.findall(r"!\[[^\]]+\]\(images/([^)]+)\)", page.read_text())}
    sizes = {picture.name: picture.stat().st_size for picture in (ROOT / "docs" / "images").iterdir()}
    assert set(sizes) == shown
    assert {name for name, size in sizes.items() if size > 100_000} == set()


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_commands_are_targets_of_the_makefile(page: Path) -> None:
    commands = re.findall(r"(?:`|^ {4})make((?: [a-z-]+)+)", page.read_text(), flags=re.MULTILINE)
    named = {target for command in commands for target in command.split() if not target.startswith("-")}
    assert named <= TARGETS


@pytest.mark.parametrize("path", list(mapped_paths()))
def test_repository_map_is_true(path: str) -> None:
    assert (ROOT / path).exists()


def test_pages_name_no_machine_and_no_registry() -> None:
    forbidden = re.compile(
        r"(?<![\w.~])/(?:opt|root|home|tmp|work)/|https?://(?:\w+\.)*(?:pypi|pythonhosted|npmjs|debian)\."
    )
    files = [*PAGES, ROOT / "Makefile", ROOT / "constraints.txt", ROOT / "pyproject.toml", ROOT / ".ci/run"]
    assert [ids(file) for file in files if forbidden.search(file.read_text())] == []


@pytest.mark.parametrize("lock", ["constraints.txt", "constraints-vllm.txt", "images/vllm.txt"])
def test_locks_pin_one_version_each_and_the_files_it_may_come_from(lock: str) -> None:
    text = re.sub(r"(?m)^#.*\n", "", (ROOT / lock).read_text())
    pin, file = r"[A-Za-z0-9_.-]+==[A-Za-z0-9_.!+]+", r" \\\n    --hash=sha256:[0-9a-f]{64}"
    assert re.fullmatch(rf"(?:{pin}(?:{file})+\n)+", text)
    names = [canonicalize_name(name) for name in re.findall(r"(?m)^([A-Za-z0-9_.-]+)==", text)]
    assert len(names) == len(set(names))


def test_grpc_packages_are_at_one_patch_version() -> None:
    pins = re.findall(r"^(grpcio[a-z-]*)==(\S+)", (ROOT / "constraints.txt").read_text(), flags=re.MULTILINE)
    assert len(pins) > 1
    assert len({version for _, version in pins}) == 1


def test_commands_of_the_readme_exist_with_their_options() -> None:
    text = (ROOT / "README.md").read_text().replace("\\\n", "")  # a command may go on in the next line
    commands = re.findall(r"^ {4}omnialign (.+)$", text, flags=re.MULTILINE)
    assert commands
    root = typer.main.get_command(app)
    for line in commands:
        command, words = root, shlex.split(line)
        while isinstance(command, TyperGroup):
            command = command.commands[words.pop(0)]
        command.make_context(command.name, words, resilient_parsing=False)
