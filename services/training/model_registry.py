"""The model registry of the data service, as training needs it: where a model is, and registering a new one.

Retries: `AsyncClient` repeats a single call for about a second, which hides a broken connection. Whole operations, many
calls each, are repeated here for as long as a restart of the data service takes, and by nothing above: the supervisor
and the launchers turn what is still UNAVAILABLE after that into `Blocked`, which shows as the job's condition.
"""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar
from urllib.parse import unquote, urlparse

from omnialign import names
from omnialign.client import AsyncClient
from omnialign.errors import InvalidArgument, NotFound, Unavailable
from omnialign.folders import FileEntry
from omnialign.modeling.lora import check_base_in_project, is_lora, lora_of_lora, read_lora
from omnialign.modeling.reward_folder import is_reward_model, writes_nothing
from omnialign.retry import RetryPolicy
from omnialign.v1.training_service_pb2 import TrainingJob, TrainingSpec
from services.runtime.connections import ClientFactory
from training.methods.reward import REWARD
from training.model_shape import ModelShape, shape_of_folder, shape_of_settings

T = TypeVar("T")

RETRIES = RetryPolicy(base_seconds=0.25, cap_seconds=4.0, max_attempts=6)
"""About six seconds of pauses. Counted in attempts, because a single attempt may upload for minutes."""
FIELD = "training_job.spec.base_model"
REGISTER_SECONDS = 1800.0
"""How long registering may take: the data service reads, and perhaps copies, a large model."""


@dataclass(frozen=True)
class BaseModel:
    """The files that training starts from."""

    name: str
    """The whole model: a model version, or a `file://` folder."""
    folder: Path
    lora: Path | None = None
    """Folder of the LoRA that training goes on from."""


class ModelRegistry:
    """A client of the model registry. It connects again for each operation: they are rare and may be hours apart."""

    def __init__(self, address: Callable[[], str], peers: ClientFactory | None = None) -> None:
        self._address = address
        self._peers = peers or ClientFactory()

    async def base_model(self, name: str, *, fetched: Path) -> BaseModel:
        """What training starts from: a model version or a `file://` folder, which may be a LoRA; its base comes along.

        Models on other machines are fetched to `fetched` and beside it. Raises `NotFound` (LORA_BASE_MISSING if it is
        the base of a LoRA that is missing), and `InvalidArgument` as `read_lora` and `lora_of_lora`.
        """
        found = await self._folder(name, fetched=fetched)
        if not is_lora(found.folder):
            return found
        settings = read_lora(found.folder, name=name)
        if names.matches(name, names.MODEL_VERSION):
            check_base_in_project(settings, name=name, parent=names.project_name_of(name))
        try:
            base = await self._folder(settings.base, fetched=fetched.with_name(f"{fetched.name}-of-lora"))
        except NotFound as error:
            raise _base_missing(name, settings.base) from error
        if is_lora(base.folder):
            raise lora_of_lora(name, settings.base)
        return replace(base, lora=found.folder)

    async def check_purpose(self, spec: TrainingSpec) -> None:
        """Raises `InvalidArgument` (MODEL_IS_A_REWARD_MODEL) for a reward model as the start of another method."""
        name = spec.base_model
        if spec.method == REWARD.name:
            return
        if name.startswith("file://"):
            gives_rewards = is_reward_model(Path(unquote(urlparse(name).path)))
        else:
            gives_rewards = (await self._ask(name, lambda client: client.get_model_version(name))).reward_model
        if gives_rewards:
            raise writes_nothing(name, field=FIELD)

    async def versions_of(self, name: str) -> list[str]:
        """The model versions that a job with this base model reads: that one, and if it is a LoRA, its base.

        Raises `NotFound`; LORA_BASE_MISSING if it is the base of a LoRA that is missing.
        """
        if not names.matches(name, names.MODEL_VERSION):
            return [name]
        version = await self._ask(name, lambda client: client.get_model_version(name))
        if not version.lora_base:
            return [name]
        try:
            await self._ask(name, lambda client: client.get_model_version(version.lora_base))
        except NotFound as error:
            raise _base_missing(name, version.lora_base) from error
        return [name, version.lora_base]

    async def shape(self, name: str) -> tuple[ModelShape | None, bool]:
        """The shape of a base model, None if it is not known; and whether it is a LoRA, whose base's shape that is.

        Raises `NotFound`, and `InvalidArgument` as `read_lora`.
        """
        folder = _local_folder(name)
        if folder is not None and is_lora(folder):
            return await self._shape(read_lora(folder, name=name).base), True
        if folder is None and names.matches(name, names.MODEL_VERSION):
            version = await self._ask(name, lambda client: client.get_model_version(name))
            if version.lora_base:
                return await self._shape(version.lora_base), True
        return await self._shape(name), False

    async def _shape(self, name: str) -> ModelShape | None:
        """The shape of a whole model, of whose files on another machine only the settings are fetched."""
        if name.startswith("file://"):
            folder = _local_folder(name)
            return None if folder is None else await asyncio.to_thread(shape_of_folder, folder)
        version = await self._ask(name, lambda client: client.get_model_version(name))
        if (folder := _local_folder(version.uri)) is not None:
            return await asyncio.to_thread(shape_of_folder, folder)
        with tempfile.TemporaryDirectory(prefix="omnialign-settings-") as fetched:
            await self._ask(name, lambda client: client.download_model_settings(version.name, fetched))
            return await asyncio.to_thread(
                shape_of_settings, Path(fetched), parameters=version.parameter_count, size_bytes=version.size_bytes
            )

    async def _folder(self, name: str, *, fetched: Path) -> BaseModel:
        """The folder of exactly this model."""
        if name.startswith("file://"):
            if (folder := _local_folder(name)) is None:
                raise NotFound(f"{name} has no model folder", reason="MODEL_FILES_MISSING", metadata={"model": name})
            return BaseModel(name, folder)
        version = await self._ask(name, lambda client: client.get_model_version(name))
        if (folder := _local_folder(version.uri)) is None:
            await self._ask(name, lambda client: client.download_model(version.name, fetched))
        return BaseModel(version.name, folder or fetched)

    async def check_registered(self, name: str) -> None:
        """Checks that any machine can fetch the model, and its base if it is a LoRA.

        Raises `InvalidArgument` (MODEL_NOT_REGISTERED) for anything but a model version, and as `versions_of`.
        """
        if not names.matches(name, names.MODEL_VERSION):
            raise InvalidArgument(
                f"a job in a cluster starts from a registered model version, not {name}: register it first",
                reason="MODEL_NOT_REGISTERED",
                metadata={"model": name},
            )
        await self.versions_of(name)

    async def register(self, job: TrainingJob, folder: Path) -> str:
        """Registers a finished model and returns its name. Safe to repeat: the same bytes are the same version.

        The files stay where they are if the registry can read them there, which it can if the base model is a folder
        of this machine too; otherwise they are uploaded.
        """
        base = job.spec.base_model
        base_uri = base if base.startswith("file://") else await self._ask(job.name, lambda client: _uri(client, base))
        if _local_folder(base_uri) is not None:
            return await self._ask(job.name, lambda client: _register(client, job, folder.as_uri()))

        async def upload(client: AsyncClient) -> str:
            return await _register(client, job, await client.upload_files(folder))

        return await self._ask(job.name, upload)

    async def upload_pieces(self, job: TrainingJob, pieces: AsyncIterator[FileEntry | bytes]) -> str:
        """Uploads a model's files as they come, registers them, and returns the model's name.

        `pieces` holds each file's `FileEntry`, followed by its bytes. It can be read only once, so only the sender can
        repeat a failed upload.
        """
        async with self._client(job.name) as client:
            upload = await client.upload_pieces(pieces)
        return await self._ask(job.name, lambda client: _register(client, job, upload))

    async def ask(self, operation: Callable[[AsyncClient], Awaitable[T]]) -> T:
        """The result of an operation that says itself which project it is about. Raises Unavailable."""
        return await self._ask("", operation)

    async def _ask(self, name: str, operation: Callable[[AsyncClient], Awaitable[T]]) -> T:
        """The result of `operation`, which is repeated while the data service is away."""
        retries = RETRIES.start()
        while True:
            try:
                async with self._client(name) as client:
                    return await operation(client)
            except Unavailable:
                pause_seconds = retries.next_pause_seconds()
                if pause_seconds is None:
                    raise
            await asyncio.sleep(pause_seconds)

    def _client(self, name: str) -> AsyncClient:
        """A client for the project of a resource."""
        return self._peers.client(self._address(), project=_project_of(name))


def _project_of(name: str) -> str:
    for pattern in (names.TRAINING_JOB, names.MODEL_VERSION):
        if names.matches(name, pattern):
            return names.parse(name, pattern)["project"]
    return "default"


async def _uri(client: AsyncClient, name: str) -> str:
    return str((await client.get_model_version(name)).uri)


def _local_folder(uri: str) -> Path | None:
    """The model folder of this machine that a URI names, or None."""
    parsed = urlparse(uri)
    folder = Path(unquote(parsed.path))
    is_model = parsed.scheme == "file" and ((folder / "config.json").is_file() or is_lora(folder))
    return folder if is_model else None


def _base_missing(name: str, base: str) -> NotFound:
    return NotFound(
        f"the LoRA {name} belongs to {base}, which is not there any more; register that model again, with a LoRA that "
        "names it, or start from another model",
        reason="LORA_BASE_MISSING",
        metadata={"model": name, "base": base},
    )


async def _register(client: AsyncClient, job: TrainingJob, uri: str) -> str:
    sources = [job.spec.base_model, job.spec.dataset, job.name]
    version = await client.register_model(
        job.spec.output_model_id, uri, sources=sources, deadline_seconds=REGISTER_SECONDS
    )
    return str(version.name)
