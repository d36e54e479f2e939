"""Datasets: the list, versions, records with players, and what was set aside, with reasons."""

from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from omnialign import names
from omnialign.client import AsyncClient
from omnialign.v1 import record_pb2
from services.console.context import Context, name_in
from services.console.job_list import SHOWN as LIST_SHOWN
from services.console.job_list import first, shown

PAGE_RECORDS = 10
PAGES_MAX = 500
"""A page farther on is found by the id of a record: the service reads from the beginning."""
VERSIONS_SHOWN = 200
SET_ASIDE_SHOWN, SET_ASIDE_READ = 200, 20_000


def dataset_routes(context: Context) -> list[Route]:
    """The pages of datasets."""

    async def datasets(request: Request) -> Response:
        client, limit = context.client(request), shown(request)
        found = [one async for one in first(client.list_datasets(), limit + 1)]
        more = limit + LIST_SHOWN if len(found) > limit else 0
        return context.pages.page(request, "datasets.html.j2", section="datasets", datasets=found[:limit], more=more)

    async def dataset(request: Request) -> Response:
        client, name = context.client(request), name_in(request, names.DATASET)
        found = await client.get_dataset(name)
        versions = [one async for one in first(client.list_dataset_versions(name), VERSIONS_SHOWN)]
        return context.pages.page(
            request, "dataset.html.j2", section="datasets", dataset=found, versions=versions, most=VERSIONS_SHOWN
        )

    async def version(request: Request) -> Response:
        client, name = context.client(request), name_in(request, names.DATASET_VERSION)
        found = await client.get_dataset_version(name)
        values = await _records(client, request, found.name)
        return context.pages.page(
            request, "records.html.j2", section="datasets", name=found.name, version=found, source=found.name, **values
        )

    async def head(request: Request) -> Response:
        client, name = context.client(request), name_in(request, names.DATASET)
        found = await client.get_dataset(name)
        values = await _records(client, request, name)
        return context.pages.page(
            request, "records.html.j2", section="datasets", name=name, version=None, source=found.name, **values
        )

    async def quarantine(request: Request) -> Response:
        client, name = context.client(request), name_in(request, names.DATASET)
        wanted = request.query_params.get("reason", "")
        rows, reasons = list[record_pb2.Record](), Counter[str]()
        async for record in first(client.stream_quarantine(name), SET_ASIDE_READ):
            reasons[record.quarantine.reason] += 1
            if len(rows) < SET_ASIDE_SHOWN and wanted in ("", record.quarantine.reason):
                rows.append(record)
        return context.pages.page(
            request,
            "quarantine.html.j2",
            section="datasets",
            name=name,
            rows=rows,
            reasons=reasons.most_common(),
            reason=wanted,
            is_cut=reasons.total() == SET_ASIDE_READ,
        )

    path = "/" + names.DATASET
    return [
        Route("/projects/{project}/datasets", datasets),
        Route(path, dataset),
        Route(f"{path}/records", head),
        Route(f"{path}/quarantine", quarantine),
        Route("/" + names.DATASET_VERSION, version),
    ]


async def _records(client: AsyncClient, request: Request, source: str) -> dict[str, Any]:
    """A page of records, and what it was asked for."""
    wanted = {key: request.query_params.get(key, "").strip()[:200] for key in ("subtask", "split", "id")}
    page = _page(request)
    stream = client.stream_records(
        source,
        subtasks=[wanted["subtask"]] if wanted["subtask"] else (),
        splits=[wanted["split"]] if wanted["split"] else (),
        ids=[wanted["id"]] if wanted["id"] else (),
        limit=page * PAGE_RECORDS + 1,
    )
    found = [record async for record in _behind(stream, (page - 1) * PAGE_RECORDS)]
    has_more = len(found) > PAGE_RECORDS and page < PAGES_MAX
    return {"records": found[:PAGE_RECORDS], "wanted": wanted, "page": page, "has_more": has_more}


def _page(request: Request) -> int:
    asked = request.query_params.get("page", "")
    return min(max(int(asked), 1), PAGES_MAX) if asked.isascii() and asked.isdigit() and len(asked) < 9 else 1


async def _behind(records: AsyncIterator[Any], number: int) -> AsyncIterator[Any]:
    async for record in records:
        if number:
            number -= 1
        else:
            yield record
