"""The page of a job of any kind: its state, stages, yield, curves and log; what can be done with it; and its report."""

from typing import Any

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from omnialign.errors import InvalidArgument, NotFound
from services.console.context import Context, name_in
from services.console.job_events import follow
from services.console.job_kinds import KINDS, QUESTIONS, TRAINING, JobKind
from services.console.job_view import JobView, curves_of
from services.console.security import REPORT_POLICY

LOG_LINES = 200


def job_routes(context: Context) -> list[Route]:
    """The routes of all kinds."""
    return [route for kind in KINDS for route in _routes_of(context, kind)]


def _routes_of(context: Context, kind: JobKind) -> list[Route]:
    path = "/" + kind.pattern
    section = "evaluations" if kind.collection == "evaluations" else "jobs"

    async def show(request: Request) -> Response:
        client, name = context.client(request), name_in(request, kind.pattern)
        view = JobView(kind, await kind.get(client, name))
        return context.pages.page(request, "job.html.j2", section=section, view=view)

    async def events(request: Request) -> Response:
        return follow(context, request, kind, name_in(request, kind.pattern))

    async def drawn(request: Request) -> Response:
        client, name = context.client(request), name_in(request, kind.pattern)
        view = JobView(kind, await kind.get(client, name))
        return context.pages.page(request, "curves.html.j2", drawn=await curves_of(client, view))

    async def act(request: Request) -> Response:
        client, name = context.client(request), name_in(request, kind.pattern)
        action = request.path_params["action"]
        if action not in kind.actions:
            raise NotFound("There is no such page.", reason="PAGE_NOT_FOUND")
        form = await context.form(request)
        if action in QUESTIONS and form.get("confirmed") != "yes":
            values = {"name": name, "action": action, "question": QUESTIONS[action]}
            return context.pages.page(request, "confirm.html.j2", section=section, **values)
        await kind.actions[action](client, name)
        gone = action == "delete"
        return RedirectResponse(f"/projects/{request.path_params['project']}/jobs" if gone else f"/{name}", 303)

    async def report(request: Request) -> Response:
        client, name = context.client(request), name_in(request, kind.pattern)
        if kind.report is None:
            raise InvalidArgument("Jobs of this kind have no report.", reason="NO_REPORT")
        data = await kind.report(client, name)
        headers = {"content-security-policy": REPORT_POLICY}
        if "download" in request.query_params:
            headers["content-disposition"] = 'attachment; filename="report.html"'
        return Response(data, media_type="text/html; charset=utf-8", headers=headers)

    async def log(request: Request) -> Response:
        client, name = context.client(request), name_in(request, kind.pattern)
        lines = [line async for line in client.training_log(name, tail_lines=LOG_LINES)]
        return context.pages.page(request, "log.html.j2", section=section, name=name, lines=lines)

    found: list[tuple[str, Any, str]] = [
        (path, show, "GET"),
        (f"{path}/events", events, "GET"),
        (f"{path}/curves", drawn, "GET"),
        (f"{path}/report", report, "GET"),
    ]
    if kind is TRAINING:
        found.append((f"{path}/log", log, "GET"))
    found.append((f"{path}/{{action}}", act, "POST"))
    return [Route(place, handler, methods=[method]) for place, handler, method in found]
