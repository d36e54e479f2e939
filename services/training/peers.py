"""What the training service asks of the data service: where a model lies, and to register a new one."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TypeVar
from urllib.parse import unquote, urlparse

from omnialign import names
from omnialign.client import AsyncClient
from omnialign.errors import InvalidArgument, NotFound, Unavailable
from omnialign.folders import FileEntry
from omnialign.modeling.lora import is_lora, not_trainable
from omnialign.v1.training_service_pb2 import TrainingJob
from services.runtime.peers import Peers as Connections

T = TypeVar("T")

ATTEMPTS = 6
FIRST_WAIT_SECONDS = 0.25
FIELD = "training_job.spec.base_model"
REGISTER_SECONDS = 1800.0
"""How long registering may take: a large model is read, and perhaps copied, by the data service."""


class Peers:
    """A client of the data service, connected anew for each errand: errands are rare and may be hours apart."""

    def __init__(self, address: Callable[[], str], connections: Connections | None = None) -> None:
        self._address = address
        self._connections = connections or Connections()

    async def model_dir(self, name: str, *, fetched: Path) -> Path:
        """The folder of a model version or of a `file://` URI; one that is not on this machine is fetched.

        Raises `NotFound` and `InvalidArgument` (BASE_MODEL_NOT_TRAINABLE for a LoRA).
        """
        uri = name if name.startswith("file://") else await self._ask(name, lambda c: _base_uri(c, name))
        if uri == name and is_lora(Path(unquote(urlparse(uri).path))):
            raise not_trainable(name, field=FIELD)
        folder = _local(uri)
        if folder is None and name == uri:
            raise NotFound(f"{name} has no model folder", reason="MODEL_FILES_MISSING", metadata={"model": name})
        if folder is None:
            await self._ask(name, lambda client: client.download_model(name, fetched))
        return folder or fetched

    async def check_registered(self, name: str) -> None:
        """Raises `NotFound`, and `InvalidArgument` for a LoRA (BASE_MODEL_NOT_TRAINABLE) and for what no other machine
        could fetch (MODEL_NOT_REGISTERED).
        """
        if not names.matches(name, names.MODEL_VERSION):
            raise InvalidArgument(
                f"a job in a cluster starts from a registered model version, not {name}: register it first",
                reason="MODEL_NOT_REGISTERED",
                metadata={"model": name},
            )
        await self._ask(name, lambda client: _base_uri(client, name))

    async def register(self, job: TrainingJob, folder: Path) -> str:
        """Registers a finished model and returns its name. Safe to repeat: the same bytes are the same version.

        It stays in its place where the base model lies on this machine too; else the registry has another disk, and
        the files are uploaded.
        """
        base = job.spec.base_model
        base_uri = base if base.startswith("file://") else await self._ask(job.name, lambda client: _uri(client, base))
        if _local(base_uri) is not None:
            return await self._ask(job.name, lambda client: _register(client, job, folder.as_uri()))

        async def upload(client: AsyncClient) -> str:
            return await _register(client, job, await client.upload_files(folder))

        return await self._ask(job.name, upload)

    async def pass_on(self, job: TrainingJob, pieces: AsyncIterator[FileEntry | bytes]) -> str:
        """Passes a model's files to the data service as they come, registers them, and returns the model's name.

        Files are a `FileEntry` each, followed by their bytes. They come once, so a failure is the sender's to repeat.
        """
        async with self._client(job.name) as client:
            upload = await client.upload_pieces(pieces)
        return await self._ask(job.name, lambda client: _register(client, job, upload))

    async def _ask(self, name: str, errand: Callable[[AsyncClient], Awaitable[T]]) -> T:
        """Runs an errand, again with growing waits while the data service is away."""
        for attempt in range(ATTEMPTS):
            try:
                async with self._client(name) as client:
                    return await errand(client)
            except Unavailable:
                if attempt == ATTEMPTS - 1:
                    raise
                await asyncio.sleep(FIRST_WAIT_SECONDS * 2**attempt)
        raise AssertionError("unreachable")

    def _client(self, name: str) -> AsyncClient:
        """A client for the project that a resource is in."""
        parts = name.split("/")
        project = parts[1] if len(parts) > 1 and parts[0] == names.PROJECT.split("/")[0] else "default"
        return self._connections.client(self._address(), project=project)


async def _base_uri(client: AsyncClient, name: str) -> str:
    """Where a model lies that training is to start from."""
    version = await client.get_model_version(name)
    if version.lora_base:
        raise not_trainable(name, field=FIELD)
    return str(version.uri)


async def _uri(client: AsyncClient, name: str) -> str:
    return str((await client.get_model_version(name)).uri)


def _local(uri: str) -> Path | None:
    """The model folder of this machine that a URI names; None when there is none."""
    parsed = urlparse(uri)
    folder = Path(unquote(parsed.path))
    return folder if parsed.scheme == "file" and (folder / "config.json").is_file() else None


async def _register(client: AsyncClient, job: TrainingJob, uri: str) -> str:
    sources = [job.spec.base_model, job.spec.dataset, job.name]
    version = await client.register_model(
        job.spec.output_model_id, uri, sources=sources, deadline_seconds=REGISTER_SECONDS
    )
    return str(version.name)
