"""The services of `benchmarks.door`: the data service, and a model that answers after a fixed time.

Prints its address once it answers, and serves until it is ended.
"""

import argparse
import asyncio
import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from benchmarks.door import MODEL
from benchmarks.null_services import Behaviour, add_models
from omnialign.client import AsyncClient
from services.data import __main__ as data
from services.data.config import DataConfig
from services.runtime.config import ServerConfig
from services.runtime.server import Server


async def serve(folder: Path, *, milliseconds: float) -> None:
    """Serves until a signal."""
    server = Server(ServerConfig(reflection=False), name="bench")
    async with data.wire(server, DataConfig(root=folder / "data")):
        add_models(server, Behaviour(log=False, delay_seconds=milliseconds / 1000))
        await server.start()
        server.set_serving()
        async with AsyncClient(server.address) as client:
            await client.register_model(MODEL, model_folder(folder / "model").as_uri())
        print(server.address, flush=True)
        await server.serve_until_signal()


def model_folder(folder: Path) -> Path:
    """A folder that can be registered; nobody loads it."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    save_file({"weight": np.zeros((2, 2), dtype=np.float32)}, folder / "model.safetensors")
    return folder


def main() -> None:
    """Reads the command line and serves."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.door_services", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--milliseconds", type=float, required=True)
    settings = parser.parse_args()
    asyncio.run(serve(settings.folder, milliseconds=settings.milliseconds))


if __name__ == "__main__":
    main()
