"""Annotating: the next pair of a campaign with players and the form, drafts, and how a pair is finished."""

from collections.abc import Mapping
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from omnialign import names
from omnialign.annotation_parts import parts_of
from omnialign.errors import Aborted, FailedPrecondition, InvalidArgument, OmnialignError, Unavailable
from omnialign.v1.annotation_service_pb2 import Campaign, Task
from services.console.annotation_form import MAX_BODY_BYTES, MAX_FIELDS, SIDES, fields_of, group_of, places, read_form
from services.console.context import Context, name_in
from services.console.failures import AWAY_SECONDS, status_of

SEE_OTHER = 303
DONE = {"submit": "Submitted.", "skip": "Skipped: the pair goes to others.", "flag": "Set aside for whoever decides."}
WHY = {
    "DRAFT_STALE": "Another tab or window has saved this pair since, so what is written here is not kept.",
    "LEASE_LOST": "Your time for this pair ran out and somebody else has it. What you wrote is kept as your draft.",
    "CAMPAIGN_CLOSED": "The campaign was closed. What you wrote is kept, and can be submitted once it is reopened.",
    "TASK_DONE": "This pair is finished already, which is final.",
    "ALREADY_SUBMITTED": "This pair was submitted with another content, which is final.",
    "TASK_NOT_LEASED": "This pair was never given to you.",
}
"""Why a pair cannot be gone on with, by the reason of the services."""


def annotating_routes(context: Context) -> list[Route]:
    """The page of a task, and what it sends."""

    async def annotate(request: Request) -> Response:
        client, name = context.client(request), name_in(request, names.CAMPAIGN)
        if not context.config.sign_in and not annotator(request):
            return RedirectResponse(f"/{name}", SEE_OTHER)  # where one says who one is
        campaign = await client.get_campaign(name)
        lease = await client.lease_task(name, annotator=annotator(request))
        done = DONE.get(request.query_params.get("after", ""), "")
        if lease.HasField("task"):
            return task_page(request, campaign, lease.task, fields_of(lease.task.annotation), done=done)
        return context.pages.page(
            request,
            "annotate_none.html.j2",
            section="campaigns",
            campaign=campaign,
            held=lease.held_by_others_count,
            done=done,
        )

    def task_page(
        request: Request,
        campaign: Campaign,
        task: Task,
        fields: Mapping[str, str],
        *,
        done: str = "",
        error: OmnialignError | None = None,
    ) -> Response:
        return context.pages.page(
            request,
            "annotate.html.j2",
            status=status_of(error) if error else 200,
            section="campaigns",
            campaign=campaign,
            task=task,
            revision=fields.get("revision", task.revision),
            record=task.record,
            rubric=task.rubric,
            fields=fields,
            places=[places(task.record, side, fields) for side in SIDES],
            draft=task.draft if task.HasField("draft") else None,
            drafted={group_of(part) for part in parts_of(task.draft.annotation)},
            query=query(request),
            done=done,
            error=error,
            is_away=False,
        )

    async def draft(request: Request) -> Response:
        client, name = context.client(request), name_in(request, names.TASK)
        fields = await context.form(request, max_fields=MAX_FIELDS)
        is_part = "hx-request" in request.headers
        try:
            reading = read_form(fields)
            task = await client.save_draft(
                name, reading.annotation, revision=revision(fields), annotator=annotator(request)
            )
        except (InvalidArgument, FailedPrecondition, Aborted) as error:
            if not is_part:
                return stopped(request, error)
            values = {"why": WHY.get(error.reason, error.message), "is_over": error.reason in WHY}
            return context.pages.page(
                request, "draft_refused.html.j2", status=status_of(error), **values, **back(request)
            )
        if not is_part:
            more = fields.get("more", "")
            place = f"#{more}" if more.startswith("mark.") and more.isprintable() and " " not in more else ""
            return RedirectResponse(f"/{names.parent_of(name)}/annotate{query(request)}{place}", SEE_OTHER)
        is_lost = task.state == Task.STATE_LOST
        return context.pages.page(
            request, "draft_saved.html.j2", task=task, unfinished=reading.unfinished, is_lost=is_lost
        )

    async def submit(request: Request) -> Response:
        client, name = context.client(request), name_in(request, names.TASK)
        fields = await context.form(request, max_fields=MAX_FIELDS)
        try:
            reading = read_form(fields)
            if reading.unfinished:
                raise InvalidArgument(
                    "Something is begun and not finished.", reason="FORM_UNFINISHED", violations=reading.unfinished
                )
            await client.submit_task(name, reading.annotation, revision=revision(fields), annotator=annotator(request))
        except InvalidArgument as error:
            campaign = await client.get_campaign(names.parent_of(name))
            lease = await client.lease_task(campaign.name, annotator=annotator(request))
            if lease.task.name != name:
                raise
            return task_page(request, campaign, lease.task, fields, error=error)
        except (FailedPrecondition, Aborted) as error:
            return stopped(request, error)
        except Unavailable as error:
            values = {"error": error, "is_away": True, "looks_again": True}
            away = context.pages.page(request, "error.html.j2", status=status_of(error), **values)
            # The tab keeps what was sent, and gives it back to the page of the pair.
            away.headers["refresh"] = f"{AWAY_SECONDS}; url={back(request)['onward']}"
            return away
        return after(request, "submit")

    async def give_up(request: Request) -> Response:
        client, name, way = context.client(request), name_in(request, names.TASK), names.id_of(request.url.path)
        fields = await context.form(request)
        reason = fields.get("reason", "").strip()
        if not reason:
            raise InvalidArgument("Say why in a few words.", reason="REASON_MISSING")
        try:
            act = client.skip_task if way == "skip" else client.flag_task
            await act(name, reason, annotator=annotator(request))
        except FailedPrecondition as error:
            return stopped(request, error)
        return after(request, way)

    def stopped(request: Request, error: OmnialignError) -> Response:
        """A page that says why this pair cannot be gone on with, and leads on. Raises what has another cause."""
        if error.reason not in WHY:
            raise error
        values = {"section": "campaigns", "why": WHY[error.reason]}
        return context.pages.page(
            request, "annotate_stopped.html.j2", status=status_of(error), **values, **back(request)
        )

    task = "/" + names.TASK
    return [
        Route(f"/{names.CAMPAIGN}/annotate", annotate),
        Route(f"{task}/draft", draft, methods=["POST"], max_body_size=MAX_BODY_BYTES),
        Route(f"{task}/submit", submit, methods=["POST"], max_body_size=MAX_BODY_BYTES),
        *(Route(f"{task}/{way}", give_up, methods=["POST"]) for way in ("skip", "flag")),
    ]


def annotator(request: Request) -> str:
    """Who annotates where nobody signs in; empty where the services know."""
    return request.query_params.get("annotator", "").strip()[:200]


def query(request: Request, **more: str) -> str:
    """What addresses of an annotator's pages end with."""
    found = ({"annotator": annotator(request)} if annotator(request) else {}) | more
    return f"?{urlencode(found)}" if found else ""


def back(request: Request) -> dict[str, str]:
    """Where a person goes on annotating."""
    campaign = name_in(request, names.CAMPAIGN)
    return {"onward": f"/{campaign}/annotate{query(request)}"}


def after(request: Request, way: str) -> Response:
    """To the next pair."""
    return RedirectResponse(f"/{name_in(request, names.CAMPAIGN)}/annotate{query(request, after=way)}", SEE_OTHER)


def revision(fields: Mapping[str, str]) -> int:
    """The revision that a form goes on from. Raises InvalidArgument FORM_INVALID."""
    text = fields.get("revision", "")
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise InvalidArgument("The form lacks its revision; load the page again.", reason="FORM_INVALID")
    return int(text)
