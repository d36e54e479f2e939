"""However a program that hosts the training service ends, the processes of its jobs end with it."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from google.protobuf import json_format

from omnialign.v1.training_service_pb2 import TrainingSpec
from tests.processes import REPOSITORY

HOST = """
import asyncio, pathlib, sys, typer
from google.protobuf import json_format
from omnialign.cli.output import Output
from omnialign.cli.session import run_guarded
from omnialign.client import AsyncClient
from omnialign.v1.training_service_pb2 import TrainingSpec
from services.data.__main__ import wire as wire_data
from services.data.config import DataConfig
from services.runtime.config import ServerConfig
from services.runtime.server import Server
from services.training.__main__ import wire
from services.training.config import TrainingConfig

async def serve():
    root, spec, *command = sys.argv[1:]
    server = Server(ServerConfig(port=0), name="host")
    config = TrainingConfig(root=pathlib.Path(root), command=tuple(command), terminate_seconds=1.0)
    async with wire_data(server, DataConfig(root=pathlib.Path(root) / "data")), wire(server, config):
        await server.start()
        server.set_serving()
        try:
            async with AsyncClient(server.address) as client:
                await client.create_training_job("tune", json_format.Parse(spec, TrainingSpec()))
                await asyncio.Event().wait()
        finally:
            await server.stop(0)

try:
    run_guarded(serve, out=Output())
except typer.Exit as end:
    sys.exit(end.exit_code)
"""

TRAINER = """
words = [sys.executable, "-c", "import time; from training import orphan; orphan.CHECKPOINT_SECONDS = 0.1; "
         "orphan.watch_service(stop=lambda: None); time.sleep(600)"]
ranks = [subprocess.Popen(words, start_new_session=True) for _ in range(2)]
(output / "pids.tmp").write_text(json.dumps([os.getpid(), *(rank.pid for rank in ranks)]))
(output / "pids.tmp").rename(output / "pids")
for rank in ranks:
    rank.wait()
"""
"""Like torchrun: waits for ranks in sessions of their own, which no signal to its process group reaches."""


@pytest.mark.timeout(120)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_trainers_end_with_the_program_that_hosts_their_service(
    tmp_path: Path, spec: TrainingSpec, program: Callable[[str], tuple[str, ...]], number: signal.Signals
):
    words = [sys.executable, "-c", HOST, str(tmp_path / "root"), json_format.MessageToJson(spec), *program(TRAINER)]
    host = subprocess.Popen(words, env={**os.environ, "PYTHONPATH": str(REPOSITORY)})
    trainers: list[psutil.Process] = []
    try:
        trainers = [
            psutil.Process(pid) for pid in json.loads(_appeared(tmp_path / "root", "pids", of=host).read_text())
        ]
        assert len(trainers) == 3
        host.send_signal(number)
        assert host.wait(timeout=60) == (-number if number == signal.SIGKILL else 128 + number)
        _, alive = psutil.wait_procs(trainers, timeout=30 if number == signal.SIGKILL else 0)
        assert [trainer for trainer in alive if _computes(trainer)] == []
    finally:
        host.kill()
        host.wait()
        for trainer in trainers:
            with contextlib.suppress(psutil.NoSuchProcess):
                trainer.kill()


def _computes(process: psutil.Process) -> bool:
    """Whether a process lives. One that has ended stays, as a zombie, until whoever inherited it has waited for it."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _appeared(root: Path, name: str, *, of: subprocess.Popen[bytes]) -> Path:
    """The file called `name` that a job writes, once it is there."""
    while not (found := [*root.glob(f"jobs/*/**/{name}")]):
        assert of.poll() is None
        time.sleep(0.02)  # files of another process tell nobody that they are there
    return found[0]
