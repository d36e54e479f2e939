"""The console as an application: its routes, and what surrounds them, outermost first.

metrics and log -> security -> session -> errors as pages -> size of bodies -> route
"""

from collections.abc import Sequence

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.body_limit import RequestBodyLimitMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp

from omnialign import names
from omnialign.errors import OmnialignError
from services.console.adjudication import adjudication_routes
from services.console.annotating import annotating_routes
from services.console.assets import assets_route, load_assets
from services.console.campaign_settings import campaign_settings_routes
from services.console.campaigns import campaign_routes
from services.console.clients import Clients
from services.console.config import ConsoleConfig
from services.console.context import Context
from services.console.datasets import dataset_routes
from services.console.drafting import drafting_routes
from services.console.evaluations import evaluation_routes
from services.console.exporting import export_routes
from services.console.failures import Failures
from services.console.http_metrics import HttpMetrics, Measured, route_finder
from services.console.job_list import job_list_routes
from services.console.job_pages import job_routes
from services.console.leader_board import leader_board_routes
from services.console.lifetime import Lifetime
from services.console.media import media_routes
from services.console.models import model_routes
from services.console.oidc import Issuer
from services.console.previews import Previews
from services.console.rendering import Pages
from services.console.reviews import review_routes
from services.console.security import HEALTH, Shield
from services.console.sessions import SessionMiddleware, Sessions
from services.console.sign_in import sign_in_routes
from services.console.submitting import submit_routes
from services.console.trying import trying_routes
from services.console.uploading import upload_routes

MAX_BODY_BYTES = 1024 * 1024
"""Of a form. A route that takes more says so: `Route(..., max_body_size=...)`."""


def make_app(
    config: ConsoleConfig,
    clients: Clients,
    *,
    metrics: HttpMetrics,
    lifetime: Lifetime,
    previews: Previews,
    secure: bool,
    issuer: Issuer | None = None,
    more: Sequence[BaseRoute] = (),
) -> ASGIApp:
    """The console; `secure` where browsers reach it over TLS, `issuer` is whom people sign in with, and `more` are
    routes beside its pages."""
    assets = load_assets()
    pages = Pages(config, assets)
    context = Context(config, clients, pages, metrics, lifetime, previews, secure, issuer)
    failures = Failures(pages)
    routes = [*_routes(context), assets_route(assets), *more]
    inner = Starlette(
        routes=routes,
        middleware=[Middleware(RequestBodyLimitMiddleware, max_body_size=MAX_BODY_BYTES)],
        exception_handlers={
            OmnialignError: failures.typed,
            HTTPException: failures.http,
            Exception: failures.unexpected,
        },
    )
    sessions = Sessions(config.session_key_file, hours=config.session_hours, secure=secure)
    with_session = SessionMiddleware(inner, sessions=sessions, renew=issuer.renewed if issuer else None)
    outer = Shield(with_session, hosts=config.hosts, https=secure)
    return Measured(outer, metrics=metrics, route_of=route_finder(routes))


def _routes(context: Context) -> list[Route]:
    parts = (
        _entrance,
        sign_in_routes,
        job_list_routes,
        submit_routes,
        evaluation_routes,
        leader_board_routes,
        review_routes,
        job_routes,
        dataset_routes,
        upload_routes,
        export_routes,
        model_routes,
        trying_routes,
        media_routes,
        campaign_routes,
        campaign_settings_routes,
        drafting_routes,
        annotating_routes,
        adjudication_routes,
    )
    return [route for part in parts for route in part(context)]


def _entrance(context: Context) -> list[Route]:
    """The first page, and what probes ask."""

    async def home(request: Request) -> Response:
        project = request.path_params.get("project") or request.query_params.get("project", "").strip()
        if not names.is_project_id(project):
            project = context.config.project
        return RedirectResponse(f"/projects/{project}/jobs", 303)

    async def live(request: Request) -> Response:
        return PlainTextResponse("serving\n")

    async def ready(request: Request) -> Response:
        is_ready = context.lifetime.is_ready
        return PlainTextResponse("ready\n" if is_ready else "ending\n", 200 if is_ready else 503)

    return [
        Route("/", home),
        Route("/projects/{project}", home),
        Route(f"{HEALTH}live", live),
        Route(f"{HEALTH}ready", ready),
    ]
