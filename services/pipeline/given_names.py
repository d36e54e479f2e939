"""The names that a spec gives, resolved: datasets to one version; models to one version, a folder, or an endpoint."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from omnialign import names
from omnialign.errors import FailedPrecondition, InvalidArgument
from omnialign.modeling.lora import is_lora
from omnialign.modeling.reward_folder import is_reward_model, writes_nothing
from omnialign.modeling.written import Modality, written_by_folder
from omnialign.v1 import content_pb2, dataset_pb2
from services.inference.model_uri import is_endpoint_model, parse_endpoint_model
from services.pipeline.service_calls import ServiceClients

TEXT = content_pb2.MODALITY_TEXT


@dataclass(frozen=True)
class GivenModel:
    """A model that a spec names."""

    name: str
    """Name of one version, or the folder or endpoint as it was given."""
    sha256: str = ""
    """Digest of a registered version's files."""
    is_lora: bool = False
    is_reward: bool = False
    """Whether it rewards responses, and writes none."""
    writes: tuple[Modality, ...] = ()
    """The modalities that it writes, text among them; empty if nobody knows."""


async def find_dataset(name: str, clients: ServiceClients, *, field: str, parent: str) -> dataset_pb2.DatasetVersion:
    """The version of a dataset; without a number, the newest.

    Raises NotFound, InvalidArgument (`PROJECT_MISMATCH`, `RESOURCE_NAME_INVALID`) and FailedPrecondition
    (`DATASET_EMPTY`).
    """
    _check_project(name, field=field, parent=parent)
    if names.matches(name, names.DATASET):
        dataset = await clients.data.get_dataset(name)
        if not dataset.latest_version:
            message = f"the dataset '{name}' has no version yet; commit one first"
            raise FailedPrecondition(message, reason="DATASET_EMPTY", metadata={"dataset": name})
        name = f"{name}/versions/{dataset.latest_version}"
    names.parse(name, names.DATASET_VERSION, field=field)
    return await clients.data.get_dataset_version(name)


async def find_model(
    name: str, clients: ServiceClients, *, field: str, parent: str, may_reward: bool = False
) -> GivenModel:
    """What a model's name means.

    Raises NotFound, InvalidArgument for a name that cannot be used (`PROJECT_MISMATCH`, `RESOURCE_NAME_INVALID`,
    `MODEL_NAME_INVALID`), and the error of `writes_nothing` for a reward model unless it `may_reward`.
    """
    found = await _find_model(name, clients, field=field, parent=parent)
    if found.is_reward and not may_reward:
        raise writes_nothing(found.name, field=field)
    return found


async def _find_model(name: str, clients: ServiceClients, *, field: str, parent: str) -> GivenModel:
    if name.startswith("file://"):
        folder = Path(unquote(urlsplit(name).path))
        return GivenModel(
            name, is_lora=is_lora(folder), is_reward=is_reward_model(folder), writes=written_by_folder(folder)
        )
    if is_endpoint_model(name):
        adapter = parse_endpoint_model(name).adapter
        writes = (await _find_model(adapter, clients, field=field, parent=parent)).writes if adapter else (TEXT,)
        return GivenModel(name, writes=writes)  # a chat answers in text
    _check_project(name, field=field, parent=parent)
    if names.matches(name, names.MODEL):
        name = f"{name}/versions/-"
    names.parse(name, names.MODEL_VERSION, field=field)
    version = await clients.data.get_model_version(name)
    return GivenModel(
        version.name,
        version.sha256,
        is_lora=bool(version.lora_base),
        is_reward=version.reward_model,
        writes=tuple(version.writes),
    )


def check_subtasks(subtasks: Sequence[str], version: dataset_pb2.DatasetVersion, *, field: str) -> None:
    """Raises InvalidArgument (`SUBTASK_UNKNOWN`) for a subtask of which the dataset has no records."""
    for subtask in subtasks:
        if not version.subtask_counts.get(subtask):
            known = ", ".join(sorted(version.subtask_counts)) or "none"
            message = f"the dataset has no records of the subtask '{subtask}'; it has: {known}"
            metadata = {"subtask": subtask, "known": known}
            raise InvalidArgument(message, reason="SUBTASK_UNKNOWN", metadata=metadata, violations=[(field, message)])


def _check_project(name: str, *, field: str, parent: str) -> None:
    if name.startswith("projects/") and not name.startswith(f"{parent}/"):
        message = f"'{name}' belongs to another project than the job ('{parent}')"
        metadata = {"name": name, "parent": parent}
        raise InvalidArgument(message, reason="PROJECT_MISMATCH", metadata=metadata, violations=[(field, message)])
