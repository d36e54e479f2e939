"""Submitting an alignment job by a form: what is asked most in fields, the rest as JSON, the pre-flight beside it.

The spec is made by the contract's own JSON form, so that a field of the contract needs no code here. A job's spec can
be taken up again to submit another like it.
"""

import json
from collections.abc import Mapping
from typing import Any

from google.protobuf.json_format import MessageToDict, ParseDict, ParseError
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from omnialign import names
from omnialign.client import AsyncClient
from omnialign.errors import InvalidArgument, OmnialignError
from omnialign.v1 import alignment_service_pb2
from services.console.context import Context
from services.console.failures import status_of
from services.console.job_list import first
from services.console.job_view import preflight_rows

Spec = alignment_service_pb2.AlignmentSpec

NUMBERS = (
    ("max_prompts", "Prompts at most", "0 means all"),
    ("max_evaluation_prompts", "Prompts to evaluate at most", "0 means all"),
    ("rounds", "Rounds", "0 means one"),
    ("seed", "Seed", ""),
)
"""Whole numbers of the spec that have a field: name, label, and what zero means."""
METHODS = ("dpo", "sft", "kto", "simpo", "orpo", "sdpo", "grpo", "ppo")
IN_FIELDS = ("base_model", "dataset", *(name for name, _, _ in NUMBERS))
CHOICES_MAX = 100
PATH = "/projects/{project}/new-alignment-job"


def submit_routes(context: Context) -> list[Route]:
    """The form, its check, and the submission."""

    async def show(request: Request) -> Response:
        client = context.client(request)
        fields = await _taken_up(client, request)
        return await page(request, client, fields)

    async def page(request: Request, client: AsyncClient, fields: Mapping[str, str], **values: Any) -> Response:
        models = [one.name async for one in first(client.list_model_versions(), CHOICES_MAX)]
        datasets = [one async for one in first(client.list_datasets(), CHOICES_MAX)]
        shown: dict[str, Any] = {"error": None, "is_away": False, "checked": None, "rows": [], **values}
        return context.pages.page(
            request,
            "submit.html.j2",
            section="jobs",
            status=status_of(shown["error"]) if shown["error"] else 200,
            fields={"job_id": "", **written_spec(Spec()), **fields},
            models=models,
            datasets=[f"{one.name}/versions/{one.latest_version}" for one in datasets if one.latest_version],
            numbers=NUMBERS,
            methods=METHODS,
            **shown,
        )

    async def submit(request: Request) -> Response:
        client, fields = context.client(request), await context.form(request)
        is_check = "check" in fields
        try:
            spec = read_spec(fields)
            job = await client.create_alignment_job(fields.get("job_id", "").strip(), spec, validate_only=is_check)
        except OmnialignError as error:
            if "hx-request" in request.headers:
                raise
            return await page(request, client, fields, error=error)  # what was written is not lost
        if not is_check:
            place = f"/{job.name}"
            if "hx-request" in request.headers:
                return Response(status_code=204, headers={"hx-redirect": place})
            return RedirectResponse(place, 303)
        rows = preflight_rows(job)
        if "hx-request" in request.headers:
            return context.pages.page(request, "preflight.html.j2", checked=job, rows=rows)
        return await page(request, client, fields, checked=job, rows=rows)

    return [Route(PATH, show, methods=["GET"]), Route(PATH, submit, methods=["POST"])]


def read_spec(fields: Mapping[str, str]) -> Spec:
    """The spec that a form describes. Raises InvalidArgument SPEC_INVALID with what is wrong."""
    more = fields.get("more", "").strip()
    try:
        found = json.loads(more) if more else {}
        if not isinstance(found, dict):
            raise ValueError("it must be an object in braces")
        for name in ("base_model", "dataset"):
            found[name] = fields.get(name, "").strip()
        for name, label, _ in NUMBERS:
            if text := fields.get(name, "").strip():
                found[name] = _whole(text, label)
        if method := fields.get("method", ""):
            found.setdefault("optimization", {})["method"] = method
        if checkers := fields.get("checkers", "").split():
            found["checkers"] = checkers
        spec: Spec = ParseDict(found, Spec())
    except (ParseError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise InvalidArgument(f"The spec cannot be read: {error}.", reason="SPEC_INVALID") from None
    return spec


def written_spec(spec: Spec) -> dict[str, str]:
    """The fields of a form that describes a spec; the inverse of `read_spec`."""
    found = MessageToDict(spec, preserving_proto_field_name=True)
    fields = {name: str(found.pop(name, "")) for name in IN_FIELDS}
    fields["method"] = found.get("optimization", {}).pop("method", "dpo")
    if not found.get("optimization"):
        found.pop("optimization", None)
    fields["checkers"] = " ".join(found.pop("checkers", []))
    fields["more"] = json.dumps(found, indent=2, ensure_ascii=False) if found else ""
    return fields


async def _taken_up(client: AsyncClient, request: Request) -> dict[str, str]:
    """The fields of a form: those of a job's spec if one is to be taken up."""
    job_id = request.query_params.get("from", "")
    if not job_id:
        return written_spec(Spec())
    try:
        name = names.format_name(names.ALIGNMENT_JOB, project=client.project, alignment_job=job_id)
    except InvalidArgument:
        return written_spec(Spec())
    return written_spec((await client.get_alignment_job(name)).spec)


def _whole(text: str, label: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise ValueError(f"{label} must be a whole number, 0 or more, not '{text[:40]}'")
    return int(text)
