"""Datasets: the list, versions, records with players, and what was set aside, with reasons."""

from collections import Counter
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from omnialign import names
from omnialign.client import AsyncClient
from omnialign.v1 import record_pb2
from omnialign.v1.content_pb2 import MODALITY_AUDIO, MODALITY_IMAGE, MODALITY_VIDEO
from omnialign.v1.data_service_pb2 import RecordFilter
from services.console.context import Context, name_in
from services.console.job_list import SHOWN as LIST_SHOWN
from services.console.job_list import first, shown
from services.console.security import REPORT_POLICY

PAGE_RECORDS = 10
FILTERS = ("subtask", "split", "modality", "text", "dimension", "min_score", "max_score", "start")
SCORES = ("0", "1", "2", "3")
MODALITIES = {"image": [MODALITY_IMAGE], "audio": [MODALITY_AUDIO], "video": [MODALITY_VIDEO]}
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

    async def statistics(request: Request) -> Response:
        client, name = context.client(request), name_in(request, names.DATASET_VERSION)
        last = [found async for found in client.get_dataset_statistics(name, with_page=True)][-1]
        headers = {"content-security-policy": REPORT_POLICY}
        return Response(last.page, media_type="text/html; charset=utf-8", headers=headers)

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
        Route(f"/{names.DATASET_VERSION}/statistics", statistics),
    ]


async def _records(client: AsyncClient, request: Request, source: str) -> dict[str, Any]:
    """A page of records, and what it was asked for."""
    wanted = {key: request.query_params.get(key, "").strip()[:200] for key in FILTERS}
    token = request.query_params.get("token", "")
    if record_id := request.query_params.get("id", "").strip()[:200]:
        found = [record async for record in client.stream_records(source, ids=[record_id])]
        return {"records": found, "wanted": wanted | {"start": record_id}, "is_first": False, "onward": ""}
    page = await client.list_records(
        source,
        filter=_filter(wanted),
        start_id="" if token else wanted["start"],
        page_size=PAGE_RECORDS,
        page_token=token,
    )
    asked = {key: value for key, value in wanted.items() if value}
    onward = urlencode(asked | {"token": page.next_page_token}) if page.next_page_token else ""
    is_first = not token and not wanted["start"]
    return {"records": page.records, "wanted": wanted, "is_first": is_first, "onward": onward}


def _filter(wanted: Mapping[str, str]) -> RecordFilter:
    found = RecordFilter(text=wanted["text"], dimension=wanted["dimension"].replace(" ", "_"))
    found.subtasks.extend([wanted["subtask"]] if wanted["subtask"] else ())
    found.splits.extend([wanted["split"]] if wanted["split"] else ())
    found.modalities.extend(MODALITIES.get(wanted["modality"], ()))
    for name in ("min_score", "max_score"):
        if wanted[name] in SCORES:
            setattr(found, name, int(wanted[name]))
    return found
