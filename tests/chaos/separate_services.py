"""Services as processes of their own, so that each can be killed alone; without TLS, with SQLite.

For a training job: data, training, refinement (the engine that holds the policy) and judge. The trainer is a child of
the training service. For annotation: data, annotation, the gateway, and the console.
"""

import asyncio
import contextlib
import os
import random
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import ClassVar, Self

import psutil

from omnialign.client import AsyncClient
from services.training.process_groups import processes_of
from tests.integration.cluster import Cluster, Ports

NOWHERE = "127.0.0.1:1"


class SeparateServices(Cluster):
    """The processes."""

    PARTS: ClassVar[tuple[str, ...]]

    @classmethod
    @contextlib.asynccontextmanager
    async def running(cls, folder: Path) -> AsyncIterator[Self]:
        """The processes, for the block; their state and logs are in a folder."""
        ports = {name: Ports() for name in cls.PARTS}
        found = cls(folder, database_url="", objects={}, common={}, names=cls.PARTS, ports=ports)
        try:
            await found.start()
            yield found
        finally:
            await asyncio.to_thread(found.stop)

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

    def _own_folder(self, name: str) -> Path:
        root = self.folder / name
        root.mkdir(parents=True, exist_ok=True)
        return root


class TrainingServices(SeparateServices):
    """Those of a training job."""

    PARTS = ("data", "training", "refinement", "judge")

    def _settings(self, name: str) -> dict[str, str]:
        root = self._own_folder(name)
        addresses = {f"{part.upper()}_ADDRESS": self.ports[part].address for part in self.PARTS}
        own = {
            "data": {"DATA_ROOT": str(root)},
            "training": {"TRAINING_ROOT": str(root)} | {f"TRAINING_{key}": value for key, value in addresses.items()},
            "refinement": {"REFINEMENT_DATA_ADDRESS": addresses["DATA_ADDRESS"]},
            "judge": {"JUDGE_DATA_ADDRESS": addresses["DATA_ADDRESS"]},
        }
        engine = {f"ENGINE_{key}": str(root / key.lower()) for key in ("MODEL_CACHE", "POLICY_FOLDER", "FEATURE_CACHE")}
        is_engine = name in ("refinement", "judge")
        return {f"OMNIALIGN_{key}": value for key, value in (own[name] | (engine if is_engine else {})).items()}


class AnnotationServices(SeparateServices):
    """Those of people who annotate: the console reaches the others through the gateway, as in a cluster."""

    PARTS = ("data", "annotation", "gateway", "console")

    @property
    def console_address(self) -> str:
        """Where a browser finds the console."""
        return f"http://{self.ports['console'].address}"

    def _settings(self, name: str) -> dict[str, str]:
        root = self._own_folder(name)
        data, annotation = self.ports["data"].address, self.ports["annotation"].address
        if name == "console":
            key = root / "session-key"  # from a file, as in the chart: a restart signs nobody out
            key.write_text("what seals the sessions of this test\n")
            own = {"GATEWAY_ADDRESS": self.address, "SESSION_KEY_FILE": str(key)}
        elif name == "gateway":
            absent = ("REFINEMENT", "CRITIQUE", "JUDGE", "TRAINING", "ALIGNMENT", "EVALUATION")
            own = {f"{part}_ADDRESS": NOWHERE for part in absent}
            own |= {"DATA_ADDRESS": data, "ANNOTATION_ADDRESS": annotation}
        else:
            own = {
                "data": {"ROOT": str(root)},
                "annotation": {"ROOT": str(root), "DATA_ADDRESS": data, "REFINEMENT_ADDRESS": NOWHERE},
            }[name]
        return {f"OMNIALIGN_{name.upper()}_{key}": value for key, value in own.items()}


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
