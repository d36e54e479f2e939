"""What every page is made with, and how it reaches the services in the name of the person who asks."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request

from omnialign import names
from omnialign.client import AsyncClient
from omnialign.errors import InvalidArgument, NotFound, Unauthenticated
from services.console.clients import Clients
from services.console.config import ConsoleConfig
from services.console.http_metrics import HttpMetrics
from services.console.lifetime import Lifetime
from services.console.oidc import Issuer
from services.console.previews import Previews
from services.console.rendering import Pages
from services.console.security import CSRF_FIELD, CSRF_HEADER, check_csrf

MAX_FIELDS, MAX_FIELD_BYTES = 200, 256 * 1024


@dataclass(frozen=True)
class Context:
    """The console's parts, for the handlers of requests."""

    config: ConsoleConfig
    clients: Clients
    pages: Pages
    metrics: HttpMetrics
    lifetime: Lifetime
    previews: Previews
    secure: bool
    """Whether browsers reach the console over TLS."""
    issuer: Issuer | None
    """Whom people sign in with; None if with a token alone."""

    def client(self, request: Request) -> AsyncClient:
        """A client for the project in the path, with the person's own token.

        Raises Unauthenticated SIGN_IN_NEEDED, and NotFound for a project that cannot be.
        """
        token = request.state.session.token
        if self.config.sign_in and not token:
            raise Unauthenticated("Sign in first.", reason="SIGN_IN_NEEDED")
        project = request.path_params["project"]
        if not names.is_project_id(project):
            raise NotFound("There is no such project.", reason="PROJECT_NOT_FOUND")
        return self.clients.of(token, project)

    async def form(self, request: Request, *, max_fields: int = MAX_FIELDS) -> Mapping[str, str]:
        """The fields of a form of ours. Raises PermissionDenied CSRF_MISSING and CSRF_WRONG.

        Everything that changes something reads its form by this.
        """
        async with request.form(max_files=0, max_fields=max_fields, max_part_size=MAX_FIELD_BYTES) as form:
            fields = {name: value for name, value in form.multi_items() if isinstance(value, str)}
        check_csrf(request, request.headers.get(CSRF_HEADER) or fields.get(CSRF_FIELD, ""))
        return fields


def name_in(request: Request, pattern: str, **more: str) -> str:
    """The resource name that the path of a request is. Raises NotFound for ids that cannot be."""
    ids: dict[str, Any] = {**request.path_params, **more}
    try:
        return names.format_name(pattern, **{key: ids[key] for key in ids if f"{{{key}" in pattern})
    except InvalidArgument:
        raise NotFound("There is no such page.", reason="PAGE_NOT_FOUND") from None
