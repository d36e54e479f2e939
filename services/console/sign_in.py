"""Signing in and out: a person gives a token, a cheap call tries it, and the browser keeps it sealed."""

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from omnialign import names
from omnialign.errors import InvalidArgument, OmnialignError
from services.console.context import Context
from services.console.failures import status_of
from services.console.security import own_path
from services.console.sessions import Session

SEE_OTHER = 303
WHY = {"TOKEN_EXPIRED": "The token has expired; sign in with a new one."}


def sign_in_routes(context: Context) -> list[Route]:
    """The pages of signing in and out."""

    async def show(request: Request) -> Response:
        if not context.config.sign_in:
            return RedirectResponse("/", SEE_OTHER)
        why = request.query_params.get("why", "")
        message = WHY.get(why, "The services no longer take this token; sign in with another one.") if why else ""
        wanted = own_path(request.query_params.get("next", "/"))
        return context.pages.page(request, "sign_in.html.j2", message=message, wanted=wanted, given_project="")

    async def sign_in(request: Request) -> Response:
        form = await context.form(request)
        token, project = form.get("token", "").strip(), form.get("project", "").strip() or context.config.project
        wanted = own_path(form.get("next", "/"))
        try:
            await _try(context, token, project)
        except OmnialignError as error:
            values = {"message": error.message, "wanted": wanted, "given_project": project}
            return context.pages.page(request, "sign_in.html.j2", status=status_of(error), **values)
        # A new secret too: what was known of the session before must be worth nothing after.
        request.state.session = Session(token=token)
        return RedirectResponse(f"/projects/{project}/jobs" if wanted == "/" else wanted, SEE_OTHER)

    async def sign_out(request: Request) -> Response:
        await context.form(request)
        request.state.session = Session()
        return RedirectResponse("/sign-in", SEE_OTHER)

    return [
        Route("/sign-in", show, methods=["GET"]),
        Route("/sign-in", sign_in, methods=["POST"]),
        Route("/sign-out", sign_out, methods=["POST"]),
    ]


async def _try(context: Context, token: str, project: str) -> None:
    """Raises what the services say to a token, and InvalidArgument for what cannot be one."""
    if not token or not (token.isascii() and token.isprintable()) or " " in token:
        raise InvalidArgument("Enter a token: one word without blanks.", reason="TOKEN_INVALID")
    if not names.is_project_id(project):
        raise InvalidArgument("Enter the id of a project, such as 'default'.", reason="PROJECT_INVALID")
    async for _ in context.clients.of(token, project).list_model_versions():
        break
