"""The services of a training job as processes of their own, so that each can be killed alone.

data, training, refinement (the engine that holds the policy) and judge; without TLS, with SQLite. The trainer is a
child of the training service.
"""

import asyncio
import contextlib
import os
import random
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import psutil

from omnialign.client import AsyncClient
from services.training.process_groups import processes_of
from tests.integration.cluster import Cluster, Ports

PARTS = ("data", "training", "refinement", "judge")


class SeparateServices(Cluster):
    """The processes."""

    @classmethod
    def in_folder(cls, folder: Path) -> "SeparateServices":
        """Processes whose state and logs are in a folder."""
        ports = {name: Ports() for name in PARTS}
        return cls(folder, database_url="", objects={}, common={}, names=PARTS, ports=ports)

    def migrate(self) -> None:
        """Does nothing: the services make SQLite's tables themselves."""

    async def restart(self, name: str) -> None:
        """Kills a process with SIGKILL, and starts it again as its supervisor would."""
        await asyncio.to_thread(self.kill, name)
        self.spawn(name)
        await self.ready(name)

    def client(self, name: str) -> AsyncClient:
        """A client of one process."""
        return AsyncClient(self.ports[name].address)

    def _settings(self, name: str) -> dict[str, str]:
        root = self.folder / name
        root.mkdir(parents=True, exist_ok=True)
        addresses = {f"{part.upper()}_ADDRESS": self.ports[part].address for part in PARTS}
        own = {
            "data": {"DATA_ROOT": str(root)},
            "training": {"TRAINING_ROOT": str(root)} | {f"TRAINING_{key}": value for key, value in addresses.items()},
            "refinement": {"REFINEMENT_DATA_ADDRESS": addresses["DATA_ADDRESS"]},
            "judge": {"JUDGE_DATA_ADDRESS": addresses["DATA_ADDRESS"]},
        }
        engine = {f"ENGINE_{key}": str(root / key.lower()) for key in ("MODEL_CACHE", "POLICY_FOLDER", "FEATURE_CACHE")}
        is_engine = name in ("refinement", "judge")
        return {f"OMNIALIGN_{key}": value for key, value in (own[name] | (engine if is_engine else {})).items()}


def kill_trainer(uid: str, draw: random.Random) -> None:
    """Sends SIGKILL to the processes of a training job: to torchrun, to those that it started, or to all of them."""
    pids = processes_of(uid)
    torchrun = [pid for pid in pids if _is_torchrun(pid)]
    assert torchrun, "the trainer does not run"
    started = [pid for pid in pids if pid not in torchrun]
    for pid in draw.choice([torchrun, started or torchrun, pids]):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _is_torchrun(pid: int) -> bool:
    try:
        return "torch.distributed.run" in psutil.Process(pid).cmdline()
    except psutil.Error:  # it has ended meanwhile
        return False


@contextlib.asynccontextmanager
async def running(folder: Path) -> AsyncIterator[SeparateServices]:
    """The processes, for the block."""
    found = SeparateServices.in_folder(folder)
    try:
        await found.start()
        yield found
    finally:
        await asyncio.to_thread(found.stop)
