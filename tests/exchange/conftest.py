"""A campaign on a real server, exported for other tools, and those tools as they come from PyPI."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.omnialign.cli.conftest import run, server
from tests.omnialign.cli.test_exchange import again, campaign
from tests.processes import REPOSITORY

__all__ = ["again", "campaign", "run", "server"]  # fixtures of the command's own tests

HERE = Path(__file__).parent


def python_of(tool: str) -> Path:
    """The interpreter of a tool's environment; the test is skipped where there is none."""
    found = REPOSITORY / f".venv-{tool}" / "bin" / "python"
    if not found.exists():
        pytest.skip(f"there is no .venv-{tool}: `make test-exchange` makes it")
    return found


@pytest.fixture
def script() -> Callable[..., str]:
    """Runs a script of this folder in a tool's environment; gives what it prints."""

    def call(tool: str, name: str, *words: object) -> str:
        command = [python_of(tool), HERE / name, *map(str, words)]
        # Argilla makes a client when it reads settings, and wants a key for it.
        env = os.environ | {"ARGILLA_API_KEY": "any", "HF_HUB_OFFLINE": "1", "PYTHONPATH": ""}
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=200, check=False)
        assert done.returncode == 0, done.stderr[-4000:]
        return done.stdout

    return call
