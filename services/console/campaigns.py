"""Campaigns of annotation: the list with progress, and one with its rubric, its agreement, and what it committed."""

import asyncio
from typing import Any

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from omnialign import names
from omnialign.client import AsyncClient
from omnialign.errors import NotFound, PermissionDenied
from omnialign.v1 import data_service_pb2
from omnialign.v1.annotation_service_pb2 import Campaign, ListItemsRequest
from services.console.annotating import annotator
from services.console.context import Context, name_in
from services.console.job_list import first, shown

SHOWN = 25


def campaign_routes(context: Context) -> list[Route]:
    """The pages of campaigns."""

    async def campaigns(request: Request) -> Response:
        client, limit = context.client(request), min(shown(request), 200)
        listed = [one async for one in first(client.list_campaigns(), limit + 1)]
        # A list has no progress, which is counted for each.
        found = await asyncio.gather(*(client.get_campaign(one.name) for one in listed[:limit]))
        more = limit + SHOWN if len(listed) > limit else 0
        return context.pages.page(request, "campaigns.html.j2", section="campaigns", campaigns=found, more=more)

    async def campaign(request: Request) -> Response:
        client, name = context.client(request), name_in(request, names.CAMPAIGN)
        values = await live(client, name)
        may_decide, committed, is_gone = await asyncio.gather(
            _may_decide(client, name), _committed(client, name), _is_gone(client, values["campaign"])
        )
        return context.pages.page(
            request,
            "campaign.html.j2",
            section="campaigns",
            **values,
            may_decide=may_decide,
            committed=committed,
            is_gone=is_gone,
            annotator=annotator(request),
        )

    async def progress(request: Request) -> Response:
        client, name = context.client(request), name_in(request, names.CAMPAIGN)
        return context.pages.page(request, "campaign_live.html.j2", **await live(client, name))

    async def commit(request: Request) -> Response:
        client, name = context.client(request), name_in(request, names.CAMPAIGN)
        await context.form(request)
        done = await client.commit_campaign(name)
        return context.pages.page(request, "campaign_committed.html.j2", section="campaigns", name=name, done=done)

    async def to_campaign(request: Request) -> Response:
        return RedirectResponse(f"/{name_in(request, names.CAMPAIGN)}", 303)

    path = "/" + names.CAMPAIGN
    return [
        Route("/projects/{project}/campaigns", campaigns),
        Route(path, campaign),
        Route(f"{path}/progress", progress),
        Route(f"{path}/commit", commit, methods=["POST"]),
        Route(f"{path}/commit", to_campaign, methods=["GET"]),
    ]


async def live(client: AsyncClient, name: str) -> dict[str, Any]:
    """What changes while people annotate."""
    campaign, agreement, models = await asyncio.gather(
        client.get_campaign(name), client.get_agreement(name), client.get_model_agreement(name)
    )
    return {"campaign": campaign, "agreement": agreement, "models": models.models}


async def _may_decide(client: AsyncClient, name: str) -> bool:
    """Whether the person may see what others wrote, and so adjudicate and commit: the services know."""
    try:
        async for _ in client.list_items(name, ListItemsRequest.FILTER_FLAGGED):
            break
    except PermissionDenied:
        return False
    return True


async def _is_gone(client: AsyncClient, campaign: Campaign) -> bool:
    """Whether the dataset version was deleted."""
    try:
        await client.get_dataset_version(campaign.dataset_version)
    except NotFound:
        return True
    return False


async def _committed(client: AsyncClient, name: str) -> list[str]:
    """The dataset versions that were made of a campaign, the newest one last."""
    products = data_service_pb2.GetLineageRequest.DIRECTION_PRODUCTS
    edges = (await client.get_lineage(name, direction=products, max_depth=1)).edges
    found = {edge.target for edge in edges if edge.source == name and edge.relation == "annotated_by"}
    return sorted(found, key=lambda version: (names.unversioned(version), int(names.id_of(version))))
