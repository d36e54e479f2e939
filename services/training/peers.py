"""What the training service asks of the data service: where a model lies, and to register a new one."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar
from urllib.parse import unquote, urlparse

from omnialign import names
from omnialign.client import AsyncClient
from omnialign.errors import InvalidArgument, NotFound, Unavailable
from omnialign.v1.training_service_pb2 import TrainingJob

T = TypeVar("T")

ATTEMPTS = 6
FIRST_WAIT_SECONDS = 0.25


class Peers:
    """A client of the data service, connected anew for each errand: errands are rare and may be hours apart."""

    def __init__(self, address: Callable[[], str]) -> None:
        self._address = address

    async def model_dir(self, name: str) -> Path:
        """The folder of a model version or of a `file://` URI. Raises `NotFound` and `InvalidArgument`."""
        uri = name if name.startswith("file://") else await self._ask(name, lambda c: _uri(c, name))
        parsed = urlparse(uri)
        if parsed.scheme != "file":
            raise InvalidArgument(
                f"training needs a model in a folder, not {uri}", reason="MODEL_NOT_LOCAL", metadata={"uri": uri}
            )
        folder = Path(unquote(parsed.path))
        if not (folder / "config.json").is_file():
            raise NotFound(f"{name} has no model folder", reason="MODEL_FILES_MISSING", metadata={"model": name})
        return folder

    async def register(self, job: TrainingJob, folder: Path) -> str:
        """Registers a finished model and returns its name. Safe to repeat: the same folder is the same version."""
        sources = [job.spec.base_model, job.spec.dataset, job.name]

        async def register(client: AsyncClient) -> str:
            version = await client.register_model(job.spec.output_model_id, folder.as_uri(), sources=sources)
            return str(version.name)

        return await self._ask(job.name, register)

    async def _ask(self, name: str, errand: Callable[[AsyncClient], Awaitable[T]]) -> T:
        """Runs an errand, again with growing waits while the data service is away."""
        parts = name.split("/")
        project = parts[1] if len(parts) > 1 and parts[0] == names.PROJECT.split("/")[0] else "default"
        for attempt in range(ATTEMPTS):
            try:
                async with AsyncClient(self._address(), project=project) as client:
                    return await errand(client)
            except Unavailable:
                if attempt == ATTEMPTS - 1:
                    raise
                await asyncio.sleep(FIRST_WAIT_SECONDS * 2**attempt)
        raise AssertionError("unreachable")


async def _uri(client: AsyncClient, name: str) -> str:
    return str((await client.get_model_version(name)).uri)
