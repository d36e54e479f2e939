"""Adjudication: the pairs on which annotators differ or that were set aside, with all answers, and the decision."""

from contextlib import suppress
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from omnialign import names
from omnialign.client import AsyncClient
from omnialign.errors import InvalidArgument, NotFound
from omnialign.v1 import record_pb2
from omnialign.v1.annotation_service_pb2 import Adjudication, Campaign, Item, ListItemsRequest, Task
from services.console.annotating import annotator, query
from services.console.annotation_form import MAX_BODY_BYTES, MAX_FIELDS, SIDES, fields_of, places, read_form
from services.console.context import Context, name_in
from services.console.job_list import SHOWN, first, shown

ONLY = {
    "disagreements": (ListItemsRequest.FILTER_DISAGREEMENTS, "Disagreements"),
    "flagged": (ListItemsRequest.FILTER_FLAGGED, "Set aside"),
    "adjudicated": (ListItemsRequest.FILTER_ADJUDICATED, "Adjudicated"),
    "answered": (ListItemsRequest.FILTER_ANSWERED, "All answers"),
}
"""Which pairs a list shows, by the word in its address."""
STATES = {Task.STATE_SUBMITTED: "submitted", Task.STATE_SKIPPED: "skipped", Task.STATE_FLAGGED: "set aside"}


def adjudication_routes(context: Context) -> list[Route]:
    """The list of pairs, and the page of one."""

    async def items(request: Request) -> Response:
        client, name, limit = context.client(request), name_in(request, names.CAMPAIGN), shown(request)
        only = request.query_params.get("only", "")
        only = only if only in ONLY else "disagreements"
        found = [item async for item in first(client.list_items(name, ONLY[only][0]), limit + 1)]
        return context.pages.page(
            request,
            "items.html.j2",
            section="campaigns",
            name=name,
            items=found[:limit],
            only=only,
            filters=[(word, title) for word, (_, title) in ONLY.items()],
            more=limit + SHOWN if len(found) > limit else 0,
            query=query(request),
        )

    async def item(request: Request) -> Response:
        client = context.client(request)
        campaign = await client.get_campaign(name_in(request, names.CAMPAIGN))
        found = await client.get_item(name_in(request, names.ITEM))
        record = await _record(client, campaign, found)
        submitted = [answer for answer in found.answers if answer.state == Task.STATE_SUBMITTED]
        fields = fields_of(submitted[0].annotation) if submitted else {}
        return context.pages.page(
            request,
            "item.html.j2",
            section="campaigns",
            campaign=campaign,
            item=found,
            record=record,
            submitted=submitted,
            states=STATES,
            rubric=next(one for one in campaign.rubrics if one.subtask == found.subtask),
            fields=fields,
            places=[places(record, side, fields) for side in SIDES],
            adjudicator=annotator(request),
        )

    async def adjudicate(request: Request) -> Response:
        client, name = context.client(request), name_in(request, names.ITEM)
        fields = await context.form(request, max_fields=MAX_FIELDS)
        decision = Adjudication(reason=fields.get("why", "").strip())
        kind, _, who = fields.get("decision", "").partition(".")
        if kind == "annotator":
            decision.annotator = who
        elif kind == "left_out":
            decision.left_out = True
        elif kind == "own":
            decision.annotation.CopyFrom(read_form(fields).annotation)
        else:
            raise InvalidArgument("Choose what counts for this pair.", reason="DECISION_MISSING")
        who = fields.get("adjudicator", "").strip()[:200]
        await client.adjudicate_item(name, decision, adjudicator=who)
        onward = f"?{urlencode({'annotator': who})}" if who else ""
        return RedirectResponse(f"/{names.parent_of(name)}/items{onward}", 303)

    path = "/" + names.ITEM
    return [
        Route(f"/{names.CAMPAIGN}/items", items),
        Route(path, item),
        Route(f"{path}/adjudicate", adjudicate, methods=["POST"], max_body_size=MAX_BODY_BYTES),
    ]


async def _record(client: AsyncClient, campaign: Campaign, item: Item) -> record_pb2.Record:
    """The pair; one without a prompt and with empty responses if its dataset was deleted."""
    with suppress(NotFound):
        async for record in client.stream_records(campaign.dataset_version, ids=[item.record_id]):
            return record
    return record_pb2.Record(responses=[record_pb2.Response()] * 2)
