"""Evaluations: the list, and two of them compared item by item."""

from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from omnialign import names
from omnialign.errors import NotFound, OmnialignError
from services.console.context import Context
from services.console.job_kinds import EVALUATION
from services.console.job_list import SHOWN, found_jobs, shown

COMPARED_MAX = 200
"""Evaluations among which two can be chosen."""


def evaluation_routes(context: Context) -> list[Route]:
    """The list and the comparison; the page of one is that of a job."""

    async def evaluations(request: Request) -> Response:
        client, limit = context.client(request), shown(request)
        found = await found_jobs(client, kinds=(EVALUATION,), state="", limit=limit)
        more = limit + SHOWN if len(found) > limit else 0
        return context.pages.page(
            request, "evaluations.html.j2", section="evaluations", evaluations=found[:limit], more=more
        )

    async def compare(request: Request) -> Response:
        client, asked = context.client(request), request.query_params
        chosen = {key: asked.get(key, "") for key in ("a", "b", "model", "baseline_model")}
        finished = await found_jobs(client, kinds=(EVALUATION,), state="succeeded", limit=COMPARED_MAX)
        values: dict[str, Any] = {"chosen": chosen, "unlike": "unlike" in asked, "found": None, "problem": None}
        if chosen["a"]:
            project = request.path_params["project"]
            try:
                values["found"] = await client.compare_evaluations(
                    _name(project, chosen["a"]),
                    baseline=_name(project, chosen["b"]) if chosen["b"] else "",
                    model=chosen["model"],
                    baseline_model=chosen["baseline_model"],
                    allow_unlike=values["unlike"],
                )
            except OmnialignError as error:  # shown beside the form, which can be mended
                values["problem"] = error
        models = sorted({model for one in finished for model in one.job.spec.models})
        return context.pages.page(
            request, "compare.html.j2", section="evaluations", finished=finished, models=models, **values
        )

    return [
        Route("/projects/{project}/evaluations", evaluations),
        Route("/projects/{project}/compare", compare),
    ]


def _name(project: str, evaluation: str) -> str:
    try:
        return names.format_name(names.EVALUATION, project=project, evaluation=evaluation)
    except OmnialignError:
        raise NotFound(f"There is no evaluation '{evaluation[:100]}'.", reason="NOT_FOUND") from None
