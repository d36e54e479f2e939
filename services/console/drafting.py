"""Having a model draft the annotations of a campaign: a form on the campaign's page, which leads to the job's."""

from collections.abc import Mapping

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from omnialign import names
from omnialign.errors import InvalidArgument
from omnialign.v1.annotation_service_pb2 import DraftSpec
from services.console.context import Context, name_in


def drafting_routes(context: Context) -> list[Route]:
    """What the form sends."""

    async def draft(request: Request) -> Response:
        client, campaign = context.client(request), name_in(request, names.CAMPAIGN)
        job = await client.create_draft_job("", read_spec(campaign, await context.form(request)))
        return RedirectResponse(f"/{job.name}", 303)

    return [Route(f"/{names.CAMPAIGN}/drafts", draft, methods=["POST"])]


def read_spec(campaign: str, fields: Mapping[str, str]) -> DraftSpec:
    """The draft job that a form says. Raises InvalidArgument FORM_INVALID."""
    tokens = fields.get("tokens", "").strip()
    if tokens and not (tokens.isascii() and tokens.isdigit() and 0 < int(tokens[:19]) <= 10**12):
        problem = "must be a whole number up to 1,000,000,000,000"
        raise InvalidArgument(f"tokens {problem}", reason="FORM_INVALID", violations=[("tokens", problem)])
    model = _named(fields.get("model", "").strip(), names.project_of(campaign))
    spec = DraftSpec(campaign=campaign, model=model, token_budget=int(tokens or 0))
    spec.start_from = fields.get("start") == "yes"
    return spec


def _named(text: str, project: str) -> str:
    """The name of a model that is given as `judge`, `judge/2` or `judge@2`; an address or a whole name as it is."""
    if "://" in text or text.startswith("projects/") or not text:
        return text
    model, _, version = text.replace("@", "/").partition("/")
    return f"projects/{project}/models/{model}/versions/{version or names.NEWEST}"
