"""What depends on a resource that somebody wants to delete: it is named, and the deletion takes `--force`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from omnialign.cli.session import Session

if TYPE_CHECKING:
    from omnialign.client import AsyncClient

SHOWN = 10


async def dataset_products(client: "AsyncClient", name: str) -> list[str]:
    """What lineage says was made from a dataset or from a version of it."""
    versions = [version.name async for version in client.list_dataset_versions(name)]
    return await _products(client, [name, *versions], leave_out={name, *versions})


async def model_dependents(client: "AsyncClient", versions: Sequence[str]) -> list[str]:
    """The jobs and campaigns that use one of these model versions, and what lineage says was made from them."""
    users = [user for version in versions for user in (await client.get_model_version(version)).users]
    return [*dict.fromkeys(users), *await _products(client, versions, leave_out={*users, *versions})]


async def job_products(client: "AsyncClient", name: str) -> list[str]:
    """What lineage says that a job made."""
    return await _products(client, [name], leave_out={name})


def refuse(name: str, dependents: Sequence[str], *, session: Session) -> None:
    """Raises FailedPrecondition (`HAS_DEPENDENTS`) if there are any; their names are in the message."""
    from omnialign.errors import FailedPrecondition

    if dependents:
        raise FailedPrecondition(
            f"{named(dependents, session=session)} depend on {name}: delete it all the same with --force.",
            reason="HAS_DEPENDENTS",
            metadata={"name": name, "dependents": ",".join(dependents)},
        )


def named(resources: Sequence[str], *, session: Session) -> str:
    """The names of resources in one line, without the project, and how many more there are."""
    shown = [name.removeprefix(f"projects/{session.project}/") for name in resources[:SHOWN]]
    more = f" and {len(resources) - SHOWN} more" if len(resources) > SHOWN else ""
    return ", ".join(shown) + more


async def _products(client: "AsyncClient", sources: Sequence[str], *, leave_out: set[str]) -> list[str]:
    """What was made from these in one step, each once."""
    from omnialign.v1.data_service_pb2 import GetLineageRequest

    found = []
    for source in sources:
        walk = await client.get_lineage(source, direction=GetLineageRequest.DIRECTION_PRODUCTS, max_depth=1)
        found += [edge.target for edge in walk.edges if edge.target not in leave_out]
    return list(dict.fromkeys(found))
