"""Errors as pages: what went wrong in one sentence, and the way on.

While the services are away the page says so and loads itself again. A token that is not taken leads to the sign-in page
and back. Parts of a page, which htmx asks for, get a sentence in the place for notices.
"""

from http import HTTPStatus
from urllib.parse import urlencode, urlsplit

from google.rpc import code_pb2
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from omnialign.errors import Internal, NotFound, OmnialignError, Unauthenticated, Unavailable
from services.console.rendering import Pages
from services.console.security import own_path
from services.runtime.errors import as_omnialign_error

STATUSES = {
    code_pb2.INVALID_ARGUMENT: HTTPStatus.BAD_REQUEST,
    code_pb2.NOT_FOUND: HTTPStatus.NOT_FOUND,
    code_pb2.ALREADY_EXISTS: HTTPStatus.CONFLICT,
    code_pb2.PERMISSION_DENIED: HTTPStatus.FORBIDDEN,
    code_pb2.UNAUTHENTICATED: HTTPStatus.UNAUTHORIZED,
    code_pb2.FAILED_PRECONDITION: HTTPStatus.CONFLICT,
    code_pb2.ABORTED: HTTPStatus.CONFLICT,
    code_pb2.RESOURCE_EXHAUSTED: HTTPStatus.TOO_MANY_REQUESTS,
    code_pb2.UNAVAILABLE: HTTPStatus.SERVICE_UNAVAILABLE,
    code_pb2.DEADLINE_EXCEEDED: HTTPStatus.GATEWAY_TIMEOUT,
}
AWAY_SECONDS = 3
"""How often the page of services that are away looks again."""


def status_of(error: OmnialignError) -> int:
    """The HTTP status of an error."""
    return int(STATUSES.get(error.code, HTTPStatus.INTERNAL_SERVER_ERROR))


class Failures:
    """Answers requests that raised an error."""

    def __init__(self, pages: Pages) -> None:
        self._pages = pages

    async def typed(self, request: Request, error: Exception) -> Response:
        """The answer to one of our errors."""
        assert isinstance(error, OmnialignError)
        if isinstance(error, Unauthenticated):
            return self._to_sign_in(request, error)
        return self._page(request, error)

    async def http(self, request: Request, error: Exception) -> Response:
        """The answer to a path or a method that does not exist."""
        assert isinstance(error, HTTPException)
        if error.status_code == HTTPStatus.NOT_FOUND:
            return self._page(request, NotFound("There is no such page.", reason="PAGE_NOT_FOUND"))
        return HTMLResponse(f"{error.status_code} {error.detail}", error.status_code, headers=error.headers)

    async def unexpected(self, request: Request, error: Exception) -> Response:
        """The answer to a fault of ours, which the log has."""
        found = as_omnialign_error(error)
        return self._page(request, found if not isinstance(found, Internal) else _fault())

    def _page(self, request: Request, error: OmnialignError) -> Response:
        is_away = isinstance(error, Unavailable)
        template = "notice.html.j2" if "hx-request" in request.headers else "error.html.j2"
        values = {"error": error, "is_away": is_away, "looks_again": request.method == "GET"}
        answer = self._pages.page(request, template, status=status_of(error), **values)
        if is_away:
            answer.headers["retry-after"] = str(AWAY_SECONDS)
            if values["looks_again"]:
                answer.headers["refresh"] = str(AWAY_SECONDS)
        if "hx-request" in request.headers:
            answer.headers.update({"hx-retarget": "#notice", "hx-reswap": "innerHTML"})
        return answer

    def _to_sign_in(self, request: Request, error: Unauthenticated) -> Response:
        is_page = request.method == "GET"
        wanted = _page_of(request)
        why = error.reason if request.state.session.token else ""
        place = f"/sign-in?{urlencode({'next': wanted, 'why': why})}"
        if "hx-request" in request.headers:
            return Response(status_code=HTTPStatus.UNAUTHORIZED, headers={"hx-redirect": place})
        if request.headers.get("sec-fetch-dest", "document") != "document" and is_page:
            return self._page(request, error)  # a picture or a stream of events: nobody could sign in there
        return RedirectResponse(place, HTTPStatus.SEE_OTHER)


def _page_of(request: Request) -> str:
    """The page that a person has before them: what they asked for, or the page that sends a form or wants a part."""
    if request.method == "GET" and "hx-request" not in request.headers:
        return request.url.path + (f"?{request.url.query}" if request.url.query else "")
    page = urlsplit(request.headers.get("referer", ""))
    if page.netloc != request.headers.get("host"):
        return ""
    return own_path(page.path + (f"?{page.query}" if page.query else ""))


def _fault() -> Internal:
    return Internal("The console failed unexpectedly; its log has the cause.", reason="CONSOLE_FAULT")
