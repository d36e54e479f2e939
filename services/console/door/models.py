"""The registered models of a project, as a list of OpenAI's.

A model's id is its own, such as `base`, and stands for its newest version; `base/2` is the second version. Both, and
every other name that Generate takes, can be the `model` of a request.
"""

from typing import Any

from omnialign import names
from omnialign.client import AsyncClient
from omnialign.content import NAMES
from omnialign.errors import NotFound
from omnialign.v1 import model_pb2


async def list_models(client: AsyncClient) -> dict[str, Any]:
    """The models that answer, by their newest versions; reward models, which write nothing, are left out."""
    newest: dict[str, model_pb2.ModelVersion] = {}
    async for version in client.list_model_versions():  # newest first
        newest.setdefault(names.unversioned(version.name), version)
    found = [_entry(names.id_of(model), version) for model, version in newest.items() if not version.reward_model]
    return {"object": "list", "data": found}


async def get_model(client: AsyncClient, model: str) -> dict[str, Any]:
    """One model, or one version of it. Raises NotFound for what is not registered."""
    name = await client.find_model(model)
    if not names.matches(name, names.MODEL_VERSION):
        raise NotFound(f"There is no registered model {model[:256]!r}.", reason="MODEL_NOT_FOUND")
    return _entry(model, await client.get_model_version(name))


def _entry(model: str, version: model_pb2.ModelVersion) -> dict[str, Any]:
    return {
        "id": model,
        "object": "model",
        "created": version.create_time.seconds,
        "owned_by": names.project_name_of(version.name),
        "version": version.name,
        "display_name": version.display_name,
        "modalities": [NAMES[modality] for modality in version.writes],
    }
