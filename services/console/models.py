"""Models: the registry with versions, and lineage both ways."""

from collections.abc import Sequence
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from omnialign import names
from omnialign.client import AsyncClient
from omnialign.content import NAMES
from omnialign.errors import NotFound
from omnialign.v1 import data_service_pb2, model_pb2
from services.console.context import Context, name_in
from services.console.job_list import first

VERSIONS_READ = 2000
EDGES_SHOWN = 300
LINEAGE_STEPS = 8
Direction = data_service_pb2.GetLineageRequest
Edge = data_service_pb2.LineageEdge


@dataclass(frozen=True)
class Ancestry:
    """What an artefact came from, and what came from it."""

    name: str
    sources: Sequence[Edge]
    products: Sequence[Edge]
    is_cut: bool


def model_routes(context: Context) -> list[Route]:
    """The pages of models and of lineage."""

    async def models(request: Request) -> Response:
        client = context.client(request)
        newest: dict[str, model_pb2.ModelVersion] = {}
        counts: dict[str, int] = {}
        async for version in first(client.list_model_versions(), VERSIONS_READ):
            model = names.unversioned(version.name)
            newest.setdefault(model, version)
            counts[model] = counts.get(model, 0) + 1
        return context.pages.page(request, "models.html.j2", section="models", newest=newest, counts=counts)

    async def model(request: Request) -> Response:
        client, name = context.client(request), name_in(request, names.MODEL)
        stream = first(client.list_model_versions(), VERSIONS_READ)
        found = [version async for version in stream if names.unversioned(version.name) == name]
        if not found:
            raise NotFound(f"There is no '{name}'.", reason="NOT_FOUND")
        return context.pages.page(request, "model.html.j2", section="models", name=name, versions=found)

    async def version(request: Request) -> Response:
        client, name = context.client(request), name_in(request, names.MODEL_VERSION)
        found = await client.get_model_version(name)
        writes = [NAMES.get(modality, "?") for modality in found.writes]
        return context.pages.page(
            request,
            "model_version.html.j2",
            section="models",
            version=found,
            writes=writes,
            ancestry=await ancestry(client, found.name),
        )

    async def lineage(request: Request) -> Response:
        client, name = context.client(request), request.query_params.get("name", "")[:1024]
        if names.project_of(name) != request.path_params["project"] or not name.isprintable():
            raise NotFound("There is nothing of this name here.", reason="NOT_FOUND")
        found = await ancestry(client, name)
        return context.pages.page(request, "lineage.html.j2", section="models", ancestry=found)

    return [
        Route("/projects/{project}/models", models),
        Route("/" + names.MODEL, model),
        Route("/" + names.MODEL_VERSION, version),
        Route("/projects/{project}/lineage", lineage),
    ]


async def ancestry(client: AsyncClient, name: str) -> Ancestry:
    """Both ways from an artefact, some steps far."""
    sources = (await client.get_lineage(name, direction=Direction.DIRECTION_SOURCES, max_depth=LINEAGE_STEPS)).edges
    products = (await client.get_lineage(name, direction=Direction.DIRECTION_PRODUCTS, max_depth=LINEAGE_STEPS)).edges
    is_cut = max(len(sources), len(products)) > EDGES_SHOWN
    return Ancestry(name, sources[:EDGES_SHOWN], products[:EDGES_SHOWN], is_cut)
