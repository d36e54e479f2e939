"""The services as processes on loopback: models run by vLLM in its own environment, everything else in `.venv`."""

import sys
from dataclasses import dataclass
from pathlib import Path

from tests.integration.cluster import Cluster
from tests.processes import REPOSITORY

PYTHON = REPOSITORY / ".venv" / "bin" / "python"
NAMES = ("data", "training", "pool", "alignment-0", "gateway")


@dataclass
class VllmCluster(Cluster):
    """One process per service, with SQLite and files in a folder. Build it with `vllm_cluster`."""

    vllm_python: str = sys.executable

    def migrate(self) -> None:
        """Nothing: services on SQLite do it when they start."""

    def python(self, name: str) -> str:
        """The models' process runs where vLLM is."""
        return self.vllm_python if name == "pool" else str(PYTHON)

    def _settings(self, name: str) -> dict[str, str]:
        settings = {key: value for key, value in super()._settings(name).items() if not key.endswith("DATABASE_URL")}
        if name == "pool":
            settings |= {"OMNIALIGN_ENGINE_KIND": "vllm", "OMNIALIGN_ENGINE_CACHE_BUDGET_BYTES": str(256 << 20)}
        return settings


def vllm_cluster(folder: Path, *, vllm_python: str = sys.executable) -> VllmCluster:
    """The services with their state in a folder."""
    return VllmCluster(folder, database_url="", objects={}, common={}, names=NAMES, vllm_python=vllm_python)
