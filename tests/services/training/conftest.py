"""A real server with the training and the data service, and tiny programs in place of torchrun."""

import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from omnialign.client import AsyncClient
from omnialign.v1.training_service_pb2 import TrainingSpec
from services.data.__main__ import wire as wire_data
from services.data.config import DataConfig
from services.runtime.config import ServerConfig
from services.runtime.server import Server
from services.training.__main__ import wire
from services.training.config import TrainingConfig

PREAMBLE = """
import json, os, pathlib, shutil, signal, subprocess, sys, time, yaml
spec = yaml.safe_load(open(sys.argv[2]))
output = pathlib.Path(spec["output_dir"])
def finish():
    shutil.copytree(spec["base_model_dir"], output / "staged", dirs_exist_ok=True)
    (output / "staged").rename(output / "model")
def wait_for(path):
    while not pathlib.Path(path).exists():
        time.sleep(0.01)
def starts():
    count = len((output / "starts").read_text()) if (output / "starts").exists() else 0
    with (output / "starts").open("a") as file:
        file.write("x")
    return count + 1
"""

Serve = Callable[..., AbstractAsyncContextManager[AsyncClient]]


@pytest.fixture
def base_model(tmp_path: Path) -> Path:
    """A model folder that the registry accepts."""
    import torch
    from safetensors.torch import save_file

    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    save_file({"weight": torch.zeros(2)}, folder / "model.safetensors")
    return folder


@pytest.fixture
def spec(base_model: Path) -> TrainingSpec:
    return TrainingSpec(
        method="dpo",
        base_model=base_model.as_uri(),
        dataset="projects/default/datasets/pairs",
        output_model_id="aligned",
    )


@pytest.fixture
def program(tmp_path: Path) -> Callable[[str], tuple[str, ...]]:
    """Makes a command of a few lines of Python, run after `PREAMBLE`."""

    def make(lines: str) -> tuple[str, ...]:
        path = tmp_path / "program.py"
        path.write_text(PREAMBLE + lines)
        return (sys.executable, str(path))

    return make


@pytest.fixture
def serve(tmp_path: Path) -> Serve:
    """Starts the services; a second call with the same folders is a restart."""

    @asynccontextmanager
    async def start(command: tuple[str, ...], *, port: int = 0, **settings: object) -> AsyncIterator[AsyncClient]:
        config = TrainingConfig(root=tmp_path / "training", command=command, poll_seconds=0.05, terminate_seconds=1.0)
        config = replace(config, **settings)  # type: ignore[arg-type]
        server = Server(ServerConfig(port=port), name="test")
        async with wire_data(server, DataConfig(root=tmp_path / "data")), wire(server, config):
            await server.start()
            server.set_serving()
            try:
                async with AsyncClient(server.address) as client:
                    yield client
            finally:
                await server.stop(0)

    return start
