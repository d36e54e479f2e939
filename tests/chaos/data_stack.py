"""A data service to be killed, which writes what it imports in small steps.

python -m tests.chaos.data_stack ROOT PORT [SWEEP_SECONDS]
"""

import asyncio
import sys
from pathlib import Path

from services.data.__main__ import wire
from services.data.config import DataConfig
from services.data.importing import import_run
from services.runtime.config import ServerConfig
from services.runtime.server import Server

WRITE_RECORDS = 150


async def serve(root: Path, port: int, sweep_seconds: float) -> None:
    """Serves until killed. What is older than the interval between two sweeps is removed."""
    import_run.WRITE_RECORDS = WRITE_RECORDS
    server = Server(ServerConfig(port=port, reflection=False), name="chaos")
    config = DataConfig(root=root / "data", sweep_seconds=sweep_seconds, upload_seconds=max(sweep_seconds, 0.1))
    async with wire(server, config):
        await server.start()
        server.set_serving()
        await asyncio.Event().wait()


if __name__ == "__main__":
    seconds = float(sys.argv[3]) if len(sys.argv) > 3 else 3600.0
    asyncio.run(serve(Path(sys.argv[1]), int(sys.argv[2]), seconds))
