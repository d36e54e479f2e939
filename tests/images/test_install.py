"""What goes into an image's environment, and what is refused."""

import hashlib
import importlib.util
import subprocess
import tomllib
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tools.build_images import ROOT

specification = importlib.util.spec_from_file_location("install", ROOT / "images" / "install.py")
install = importlib.util.module_from_spec(specification)
specification.loader.exec_module(install)

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCK = (ROOT / "constraints.txt").read_text()


def names(*extras):
    return {install._canonical(install._name(line)) for line in install.requirements(PROJECT, extras)}


def test_an_extra_that_names_another_brings_its_requirements_once():
    found = list(install.requirements(PROJECT, ["services", "inference"]))
    assert len(found) == len(set(found))
    assert "prometheus-client" in found
    assert not any(line.startswith("omnialign") for line in found)


def test_the_service_image_gets_no_torch_and_the_inference_image_no_database():
    assert not names("project", "services") & {"torch", "transformers", "deepspeed"}
    assert not names("project", "inference") & {"sqlalchemy", "pylance", "kubernetes", "deepspeed"}


def test_everything_an_image_needs_has_its_pin():
    pins = install.pinned(LOCK)
    assert names("project", *PROJECT["project"]["optional-dependencies"]) <= pins.keys()


def test_vllm_has_a_lock_of_its_own_without_a_cpu_build():
    pins = install.pinned((ROOT / "images" / "vllm.txt").read_text())
    assert {"vllm", "torch", "transformers"} <= pins.keys()
    assert not [version for version in pins.values() if "+cpu" in version]


def test_beside_vllm_its_versions_win_and_ours_fill_the_rest():
    both = install.pinned(install.lock_over("a==1\nNumPy==2\n", "numpy==3\nvllm==4\n"))
    assert both == {"a": "1", "numpy": "3", "vllm": "4"}


def test_vllm_is_refused_a_base_without_a_compiler(monkeypatch):
    monkeypatch.setattr(install.shutil, "which", lambda name: None)
    with pytest.raises(SystemExit, match="BASE_IMAGE that holds gcc"):
        install.main(["dependencies", "project", "inference", "--torch", "vllm"])


@pytest.mark.parametrize(
    ("variant", "line"),
    [(None, "torch==1.2"), ("cpu", "torch==1.2+cpu"), ("cuda", "torch===1.2"), ("vllm", "torch===1.2")],
)
def test_the_variant_insists_on_its_build_of_torch_and_touches_nothing_else(variant, line):
    assert install.variant_lock("a==1\ntorch==1.2\ntorchaudio==3\n", torch=variant) == f"a==1\n{line}\ntorchaudio==3\n"
    hashed = "torch==1.2 \\\n    --hash=sha256:00\n"
    assert install.variant_lock(hashed, torch=variant) == f"{line} \\\n    --hash=sha256:00\n"


def test_a_package_that_is_not_locked_is_named():
    found = [("alpha", "1", []), ("beta", "2", []), ("gamma", "3", ["Delta (==4)"]), ("delta", "4", [])]
    assert install.drift(found, {"alpha": "1", "gamma": "3"}) == ["beta==2"]


def test_another_version_than_the_locked_one_is_named():
    assert install.drift([("alpha", "2", [])], {"alpha": "1"}) == ["alpha==2"]


def test_a_build_of_the_locked_version_and_the_tools_of_the_environment_are_let_through():
    found = [("torch", "1.2+cpu", []), ("pip", "9", []), ("omnialign", "0", [])]
    assert install.drift(found, {"torch": "1.2"}) == []


@given(st.dictionaries(st.from_regex(r"[a-z][a-z0-9]{0,8}", fullmatch=True), st.integers(0, 9)))
def test_what_is_locked_is_what_is_read_back(versions):
    lock = "# comment\n" + "".join(f"{name}=={version}\n" for name, version in versions.items())
    assert install.pinned(lock) == {name: str(version) for name, version in versions.items()}


def test_hashes_stay_with_their_package_and_constraints_have_none():
    lock = "# why\nalpha==1 \\\n    --hash=sha256:aa \\\n    --hash=sha256:ab\nbeta==2 \\\n    --hash=sha256:bb\n"
    assert install.lines_of(lock, {"beta"}) == "beta==2 \\\n    --hash=sha256:bb\n"
    assert install.without_hashes(lock) == "alpha==1\nbeta==2\n"
    assert install.lock_over(lock, "Beta==3 \\\n    --hash=sha256:cc\n").splitlines()[-2:] == [
        "Beta==3 \\",
        "    --hash=sha256:cc",
    ]


def wheel(folder, name, requirement=None):
    """A wheel of version 1 that holds nothing; its hash is returned."""
    path = folder / f"{name}-1-py3-none-any.whl"
    needs = f"Requires-Dist: {requirement}\n" if requirement else ""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(f"{name}-1.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n{needs}")
        file.writestr(f"{name}-1.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{name}-1.dist-info/RECORD", "")
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def build(tmp_path, monkeypatch):
    """A builder stage of its own, with two packages and without any index."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "wheels").mkdir()
    for name, folder in {"PREFIX": "prefix", "TOOLS": "tools", "WHEELS": "wheels"}.items():
        monkeypatch.setattr(install, name, tmp_path / folder)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    hashes = {name: wheel(tmp_path / "wheels", name, needs) for name, needs in PACKAGES.items()}
    (tmp_path / "constraints.txt").write_text(
        "".join(f"{name}==1 \\\n    --hash=sha256:{hashed}\n" for name, hashed in hashes.items())
    )
    (tmp_path / "pyproject.toml").write_text(
        '[project]\ndependencies = ["alpha"]\n[project.optional-dependencies]\nmore = ["gamma"]\n'
    )
    return tmp_path


PACKAGES = {"setuptools": None, "alpha": "beta", "beta": None, "gamma": None}


def test_only_what_an_extra_needs_is_installed(build):
    install.main(["dependencies", "project"])
    assert sorted(name for name, *_ in install.installed(build / "prefix")) == ["alpha", "beta"]


def test_a_file_that_is_not_the_locked_one_is_not_installed(build):
    install.make_environment(build / "prefix")
    wheel(build / "wheels", "beta", "gamma")
    with pytest.raises(subprocess.CalledProcessError):
        install.main(["dependencies", "project"])
    assert install.installed(build / "prefix") == []
