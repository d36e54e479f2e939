"""The settings of a campaign: what can change while people annotate, and whether it is open."""

from collections.abc import Mapping
from math import ceil

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from omnialign import names
from omnialign.errors import InvalidArgument
from omnialign.v1.annotation_service_pb2 import Campaign, LabelMatch, Priority
from services.console.context import Context, name_in
from services.console.failures import status_of

QUALITY = "quality"
FIELDS = ("display_name", "instructions", "annotators", "overlap", "priorities", "lease_seconds", "start_from")
MAX_BODY_BYTES = 1024 * 1024


def campaign_settings_routes(context: Context) -> list[Route]:
    """The page of the settings, and what it changes."""

    def page(
        request: Request, campaign: Campaign, fields: Mapping[str, str], error: InvalidArgument | None
    ) -> Response:
        return context.pages.page(
            request,
            "campaign_settings.html.j2",
            status=status_of(error) if error else 200,
            section="campaigns",
            campaign=campaign,
            fields=fields,
            error=error,
            is_away=False,
        )

    async def settings(request: Request) -> Response:
        campaign = await context.client(request).get_campaign(name_in(request, names.CAMPAIGN))
        return page(request, campaign, fields_of(campaign), None)

    async def change(request: Request) -> Response:
        client, name = context.client(request), name_in(request, names.CAMPAIGN)
        fields, campaign = await context.form(request), await client.get_campaign(name)
        try:
            wanted = read_settings(name, fields)
            if changed := [one for one in FIELDS if getattr(wanted, one) != getattr(campaign, one)]:
                await client.update_campaign(wanted, changed)
        except InvalidArgument as error:
            return page(request, campaign, fields, error)
        return RedirectResponse(f"/{name}", 303)

    async def switch(request: Request) -> Response:
        client, name = context.client(request), name_in(request, names.CAMPAIGN)
        await context.form(request)
        is_closing = names.id_of(request.url.path) == "close"
        await (client.close_campaign if is_closing else client.reopen_campaign)(name)
        return RedirectResponse(f"/{name}", 303)

    path = "/" + names.CAMPAIGN
    return [
        Route(f"{path}/settings", settings, methods=["GET"]),
        Route(f"{path}/settings", change, methods=["POST"], max_body_size=MAX_BODY_BYTES),
        *(Route(f"{path}/{way}", switch, methods=["POST"]) for way in ("close", "reopen")),
    ]


def fields_of(campaign: Campaign) -> dict[str, str]:
    """The fields of the form for a campaign."""
    return {
        "display_name": campaign.display_name,
        "instructions": campaign.instructions,
        "annotators": "\n".join(campaign.annotators),
        "overlap": str(campaign.overlap),
        "priorities": "\n".join(_line(priority) for priority in campaign.priorities),
        "lease_minutes": f"{campaign.lease_seconds / 60:g}",
        "start_from": campaign.start_from,
    }


def read_settings(name: str, fields: Mapping[str, str]) -> Campaign:
    """The settings that a form says. Raises InvalidArgument FORM_INVALID."""
    campaign = Campaign(name=name, display_name=fields.get("display_name", "").strip())
    campaign.instructions = fields.get("instructions", "").replace("\r\n", "\n")
    campaign.annotators.extend(dict.fromkeys(_lines(fields, "annotators")))
    campaign.priorities.extend(_priority(line) for line in _lines(fields, "priorities"))
    campaign.start_from = fields.get("start_from", "").strip()
    overlap = _number(fields, "overlap", most=20)
    if not overlap.is_integer():
        raise _invalid("overlap", "must be a whole number")
    campaign.overlap, campaign.lease_seconds = int(overlap), ceil(60 * _number(fields, "lease_minutes", most=10080))
    return campaign


def _lines(fields: Mapping[str, str], name: str) -> list[str]:
    return [line.strip() for line in fields.get(name, "").splitlines() if line.strip()]


def _line(priority: Priority) -> str:
    if priority.WhichOneof("pairs") == "quality_items":
        return QUALITY
    return f"{priority.label.key}={priority.label.value}" if priority.label.value else priority.label.key


def _priority(line: str) -> Priority:
    if line == QUALITY:
        return Priority(quality_items=True)
    key, _, value = line.partition("=")
    return Priority(label=LabelMatch(key=key, value=value))


def _number(fields: Mapping[str, str], name: str, *, most: int) -> float:
    try:
        number = float(fields.get(name, ""))
    except ValueError:
        number = 0.0
    if not 0 < number <= most:
        raise _invalid(name, f"must be a number up to {most}")
    return number


def _invalid(name: str, problem: str) -> InvalidArgument:
    return InvalidArgument(f"{name.replace('_', ' ')} {problem}", reason="FORM_INVALID", violations=[(name, problem)])
