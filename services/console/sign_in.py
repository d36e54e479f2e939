"""Signing in and out: a person gives a token or is sent to the issuer for one, a cheap call tries it, and the browser
keeps it sealed.

The way to the issuer and back is links and redirects that follow links: browsers let no form lead to another server, as
our policy says, not even by a redirect.
"""

import hmac
import re
import time
from dataclasses import replace

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from omnialign import names
from omnialign.errors import InvalidArgument, NotFound, OmnialignError, Unauthenticated, Unavailable
from services.console.context import Context
from services.console.failures import status_of
from services.console.oidc import FLOW_SECONDS, Issuer
from services.console.security import own_path
from services.console.sessions import Session

SEE_OTHER = 303
CALLBACK = "/sign-in/callback"
"""Where the issuer sends people back to; it must be registered there."""
MAX_WANTED_CHARACTERS = 1000
ERROR_CODE = re.compile(r"[a-z_]{1,64}")
WHY = {
    "TOKEN_EXPIRED": "The token has expired; sign in again.",
    "NOT_THIS_SIGN_IN": "That sign-in was not begun in this browser, or is over; begin again.",
}


def sign_in_routes(context: Context) -> list[Route]:
    """The pages of signing in and out."""

    async def show(request: Request) -> Response:
        if not context.config.sign_in:
            return RedirectResponse("/", SEE_OTHER)
        why = request.query_params.get("why", "")
        message = WHY.get(why, "The services no longer take this token; sign in with another one.") if why else ""
        return page(request, message, wanted=own_path(request.query_params.get("next", "/")))

    def page(
        request: Request, message: str = "", *, status: int = 200, wanted: str = "/", project: str = "", said: str = ""
    ) -> Response:
        issuer = context.issuer.name if context.issuer else ""
        values = {"message": message, "said": said, "wanted": wanted, "given_project": project, "issuer": issuer}
        return context.pages.page(request, "sign_in.html.j2", status=status, **values)

    async def sign_in(request: Request) -> Response:
        form = await context.form(request)
        token, project = form.get("token", "").strip(), form.get("project", "").strip() or context.config.project
        wanted = own_path(form.get("next", "/"))
        try:
            # A new secret too: what was known of the session before must be worth nothing after.
            session = Session(token=token).fitting()
            await _try(context, token, project)
        except OmnialignError as error:
            return page(request, error.message, status=status_of(error), wanted=wanted, project=project)
        request.state.session = session
        return RedirectResponse(f"/projects/{project}/jobs" if wanted == "/" else wanted, SEE_OTHER)

    async def begin(request: Request) -> Response:
        wanted = own_path(request.query_params.get("next", "/"))
        wanted = wanted if len(wanted) <= MAX_WANTED_CHARACTERS else "/"
        place, flow = await _issuer(context).begin(back=_own(request, context, CALLBACK), wanted=wanted)
        kept = replace(request.state.session, flow=flow)
        request.state.session = kept if kept.fits else Session(csrf=kept.csrf, flow=flow)
        return RedirectResponse(place, SEE_OTHER)

    async def callback(request: Request) -> Response:
        issuer, flow, answer = _issuer(context), request.state.session.flow, request.query_params
        # Without our own state the answer may be anybody's, who wants this browser to be signed in as somebody else.
        state = answer.get("state", "").encode()
        if (
            flow is None
            or not hmac.compare_digest(state, flow.state.encode())
            or flow.begun + FLOW_SECONDS < time.time()
        ):
            return page(request, WHY["NOT_THIS_SIGN_IN"], status=400)
        if code := answer.get("error", ""):
            request.state.session = replace(request.state.session, flow=None)
            shown = code if ERROR_CODE.fullmatch(code) else "an error without a proper name"
            said = answer.get("error_description", "")[:300]
            return page(request, f"The issuer answers: {shown}.", status=403, wanted=flow.wanted, said=said)
        try:
            session = await issuer.finish(flow, answer)
            await _taken(context, session.token, flow.wanted)
        except Unavailable:
            raise  # the page loads itself again, and the sign-in goes on
        except OmnialignError as error:
            request.state.session = replace(request.state.session, flow=None)
            return page(request, error.message, status=status_of(error), wanted=flow.wanted)
        request.state.session = session
        return RedirectResponse(flow.wanted, SEE_OTHER)

    async def sign_out(request: Request) -> Response:
        await context.form(request)
        ended = request.state.session
        request.state.session = Session()
        if context.issuer is None or not ended.is_issued:
            return RedirectResponse("/sign-in", SEE_OTHER)
        try:
            onward, problem = await context.issuer.farewell(ended, back=_own(request, context, "/sign-in")), ""
        except Unavailable as error:
            onward, problem = "", error.message
        issuer = context.issuer.name
        answer = context.pages.page(request, "signed_out.html.j2", issuer=issuer, onward=onward, problem=problem)
        if onward:
            answer.headers["refresh"] = f"0; url={onward}"
        return answer

    return [
        Route("/sign-in", show, methods=["GET"]),
        Route("/sign-in", sign_in, methods=["POST"]),
        Route("/sign-in/issuer", begin, methods=["GET"]),
        Route(CALLBACK, callback, methods=["GET"]),
        Route("/sign-out", sign_out, methods=["POST"]),
    ]


def _issuer(context: Context) -> Issuer:
    if context.issuer is None:
        raise NotFound("There is no such page.", reason="PAGE_NOT_FOUND")
    return context.issuer


def _own(request: Request, context: Context, path: str) -> str:
    """The address of a path of ours, by the name that the browser used, which was checked."""
    return f"{'https' if context.secure else 'http'}://{request.headers['host']}{path}"


async def _taken(context: Context, token: str, wanted: str) -> None:
    """Raises Unauthenticated TOKEN_NOT_TAKEN if the services do not take an issuer's token. All else, such as that it
    is for another project, is for the page that follows to say."""
    project = wanted.split("/")[2] if wanted.startswith("/projects/") else context.config.project
    try:
        await _try(context, token, project)
    except Unauthenticated as error:
        why = (
            "it has expired when it comes: compare the clocks of both, and how long the issuer's tokens live."
            if error.reason == "TOKEN_EXPIRED"
            else "it must be for their audience (OMNIALIGN_AUTH_OIDC_AUDIENCE)."
        )
        raise Unauthenticated(
            f"You are signed in at the issuer, but the services do not take its token: {why}", reason="TOKEN_NOT_TAKEN"
        ) from None
    except OmnialignError:
        return


async def _try(context: Context, token: str, project: str) -> None:
    """Raises what the services say to a token, and InvalidArgument for what cannot be one."""
    if not token or not (token.isascii() and token.isprintable()) or " " in token:
        raise InvalidArgument("Enter a token: one word without blanks.", reason="TOKEN_INVALID")
    if not names.is_project_id(project):
        raise InvalidArgument("Enter the id of a project, such as 'default'.", reason="PROJECT_INVALID")
    async for _ in context.clients.of(token, project).list_model_versions():
        break
