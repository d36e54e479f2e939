"""A stack to be killed: the data and the annotation service in one process.

python -m tests.chaos.annotation_stack ROOT PORT
"""

import asyncio
import sys
from pathlib import Path

from services.annotation.__main__ import wire as wire_annotation
from services.annotation.config import AnnotationConfig
from services.data.__main__ import wire as wire_data
from services.data.config import DataConfig
from services.runtime.config import ServerConfig
from services.runtime.server import Server


async def serve(root: Path, port: int) -> None:
    """Serves until killed."""
    server = Server(ServerConfig(port=port, reflection=False), name="annotation")
    address = server.bind()
    config = AnnotationConfig(root=root / "annotation", data_address=address, refinement_address=address)
    async with wire_data(server, DataConfig(root=root / "data")), wire_annotation(server, config):
        await server.start()
        server.set_serving()
        await server.serve_until_signal()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1]), int(sys.argv[2])))
