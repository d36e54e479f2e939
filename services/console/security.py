"""What every request must pass, and what every answer carries.

- The name that the browser used must be one of ours: otherwise a page elsewhere could point its own name at this
  machine and read everything (DNS rebinding).
- A request that changes something must come from a page of ours. Browsers say where it comes from, and forms repeat the
  session's secret.
- A page loads scripts and styles from files of ours alone, runs none that stand in it, and is shown in no frame.
"""

import hmac
import re
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from omnialign.errors import InvalidArgument, OmnialignError, PermissionDenied

PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; media-src 'self'; connect-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
UNTRUSTED_POLICY = "sandbox; default-src 'none'; frame-ancestors 'none'"
"""Of media: whatever their bytes are, nothing in them runs."""
REPORT_POLICY = (
    "sandbox; default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'; frame-ancestors 'none'"
)
"""Of reports, which are files that hold their own styles and pictures. Their scripts, which only sort, do not run."""

HEADERS = {
    "content-security-policy": PAGE_POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "cache-control": "no-store",
}
"""Of every answer that does not say otherwise."""
LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
HEALTH = "/healthz/"
HOST = re.compile(r"(?P<name>[A-Za-z0-9_.-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(:[0-9]{1,5})?")
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
CSRF_FIELD, CSRF_HEADER = "csrf", "x-csrf-token"


class Shield:
    """Refuses requests that no page of ours makes, and adds the headers of security to answers."""

    def __init__(self, app: ASGIApp, *, hosts: Collection[str], https: bool) -> None:
        self._app, self._hosts = app, LOCAL_NAMES | {*hosts}
        self._headers = HEADERS | ({"strict-transport-security": "max-age=31536000"} if https else {})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request."""
        if scope["type"] != "http":
            return  # there are no web sockets

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in self._headers.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            self._check(scope)
        except OmnialignError as error:
            await _refusal(error)(scope, receive, with_headers)
            return
        await self._app(scope, receive, with_headers)

    def _check(self, scope: Scope) -> None:
        """Raises InvalidArgument HOST_UNKNOWN, and PermissionDenied CROSS_ORIGIN."""
        headers, path = Headers(scope=scope), scope["path"]
        if not path.startswith(HEALTH) and _host_name(headers.get("host", "")) not in self._hosts:
            raise InvalidArgument(
                "The console is not reached by this name; use one that OMNIALIGN_CONSOLE_HOSTS lists, or localhost.",
                reason="HOST_UNKNOWN",
            )
        if scope["method"] not in SAFE_METHODS and not _is_from_here(headers):
            raise PermissionDenied(
                "Requests that change something are taken from the console's own pages only.", reason="CROSS_ORIGIN"
            )


def check_csrf(request: Request, given: str) -> None:
    """Compares what a form repeats with the session's secret. Raises PermissionDenied CSRF_MISSING, CSRF_WRONG."""
    if not given:
        raise PermissionDenied("The form lacks its secret; load the page again.", reason="CSRF_MISSING")
    if not hmac.compare_digest(given.encode(), request.state.session.csrf.encode()):
        raise PermissionDenied("The form is of another session; load the page again.", reason="CSRF_WRONG")


def own_path(wanted: str) -> str:
    """`wanted` if it is a path on this server, else `/`: nobody is sent elsewhere."""
    # Browsers read `//host` and `/\host` as another server, and drop tabs and line breaks before they look.
    is_plain = wanted.isprintable() and wanted.isascii() and "\\" not in wanted
    parts = urlsplit(wanted) if is_plain else None
    is_own = parts is not None and not parts.scheme and not parts.netloc
    return wanted if is_own and wanted.startswith("/") and not wanted.startswith("//") else "/"


def _host_name(host: str) -> str:
    """The name in a Host header, without its port; empty for what is none. Addresses are made of it."""
    found = HOST.fullmatch(host)
    return found["name"].strip("[]").lower() if found else ""


def _is_from_here(headers: Headers) -> bool:
    """Whether a browser says that a page of this server made the request. Programs say nothing, and have no cookie that
    a page elsewhere could use."""
    if (site := headers.get("sec-fetch-site")) is not None and site not in ("same-origin", "none"):
        return False
    origin = headers.get("origin")
    return origin is None or urlsplit(origin).netloc == headers.get("host", "")


def _refusal(error: OmnialignError) -> Response:
    status = 403 if isinstance(error, PermissionDenied) else 400
    return JSONResponse({"reason": error.reason, "message": error.message}, status)
