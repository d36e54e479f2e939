"""Who calls, and for which project: the key in `Authorization: Bearer`, and the header `OpenAI-Project`."""

from dataclasses import dataclass

from starlette.requests import Request

from omnialign import names
from omnialign.errors import InvalidArgument, Unauthenticated

MAX_TOKEN_CHARACTERS = 16_384


@dataclass(frozen=True)
class Caller:
    """A token, empty for none, and a project."""

    token: str
    project: str


def caller_of(request: Request, *, project: str) -> Caller:
    """The caller of a request; `project` is that of callers who name none.

    Raises Unauthenticated TOKEN_MISSING for an Authorization that is no bearer token, InvalidArgument PROJECT_INVALID.
    """
    named = request.headers.get("openai-project", "") or project
    if not names.is_project_id(named):
        message = "The header OpenAI-Project is not the id of a project: lower-case letters, digits and hyphens."
        raise InvalidArgument(message, reason="PROJECT_INVALID", violations=[("OpenAI-Project", "is no project's id")])
    return Caller(_token(request.headers.get("authorization", "")), named)


def _token(header: str) -> str:
    if not header:
        return ""
    scheme, _, token = header.partition(" ")
    token = token.strip()
    is_valid = token.isascii() and token.isprintable() and 0 < len(token) <= MAX_TOKEN_CHARACTERS
    if scheme.lower() != "bearer" or not is_valid:
        message = "The header Authorization is not `Bearer TOKEN`; give a token of omnialign as the API key."
        raise Unauthenticated(message, reason="TOKEN_MISSING")
    return token
