"""The routes of the door, and what each does in order: read, ask, write."""

import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from omnialign.client import AsyncClient
from omnialign.client.context import CURRENT_CALL, Call
from omnialign.errors import NotFound
from services.console.door import chat, completions, models
from services.console.door.asking import generate
from services.console.door.bodies import parse_body, read_body
from services.console.door.callers import Caller, caller_of
from services.console.door.disconnects import while_connected
from services.console.door.errors import error_response
from services.console.door.newest import NewestVersions
from services.console.door.streaming import EventStream, resumed
from services.runtime.errors import as_omnialign_error

Connect = Callable[[str, str], AsyncClient]
"""Gives the client that acts for a bearer token, "" for none, in a project. Whoever gives it also closes it."""


OWN_BOUND = 1 << 62
"""Lifts the bound that an application sets for bodies: the door's own is an error in OpenAI's form."""


@dataclass(frozen=True)
class DoorSettings:
    """Bounds of the door."""

    project: str = "default"
    """Project of callers who name none."""
    max_body_bytes: int = 64 << 20
    """Largest body of a request."""
    deadline_seconds: float = 600.0
    """How long an answer may take."""


def routes(connect: Connect, settings: DoorSettings | None = None) -> list[Route]:
    """The routes of the door, for the root of a web application."""
    door = _Door(connect, settings or DoorSettings(), NewestVersions())
    any_method = ["GET", "POST", "PUT", "PATCH", "DELETE"]

    def answers_of(path: str, api: ModuleType) -> Route:
        return Route(path, door.endpoint(door.answering(api)), methods=["POST"], max_body_size=OWN_BOUND)

    return [
        Route("/v1/models", door.endpoint(door.list_models), methods=["GET"]),
        Route("/v1/models/{model:path}", door.endpoint(door.get_model), methods=["GET"]),
        answers_of("/v1/chat/completions", chat),
        answers_of("/v1/completions", completions),
        Route("/v1/{rest:path}", door.endpoint(door.nothing), methods=any_method),
    ]


Handler = Callable[[Request, Caller, AsyncClient], Awaitable[Response]]


@dataclass(frozen=True)
class _Door:
    connect: Connect
    settings: DoorSettings
    newest: NewestVersions

    def endpoint(self, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
        """An endpoint that gives `handler` the caller's client, and answers its errors in OpenAI's form."""

        async def answer(request: Request) -> Response:
            # The services log the same id, by which a caller can ask about an answer.
            call = Call(request_id=uuid.uuid4().hex, deadline=None, authorization="", task=None)
            CURRENT_CALL.set(call)
            try:
                caller = caller_of(request, project=self.settings.project)
                response = await handler(request, caller, self.connect(caller.token, caller.project))
            except Exception as error:
                response = error_response(as_omnialign_error(error))
            response.headers["x-request-id"] = call.request_id
            return response

        return answer

    async def list_models(self, request: Request, caller: Caller, client: AsyncClient) -> Response:
        """All models."""
        return JSONResponse(await models.list_models(client))

    async def get_model(self, request: Request, caller: Caller, client: AsyncClient) -> Response:
        """One model."""
        return JSONResponse(await models.get_model(client, request.path_params["model"]))

    def answering(self, api: ModuleType) -> Handler:
        """The handler of an API, `chat` or `completions`, by which models answer."""

        async def handle(request: Request, caller: Caller, client: AsyncClient) -> Response:
            data = await read_body(request, max_bytes=self.settings.max_body_bytes)
            parameters, conversations = await parse_body(data, api.read)
            model = await self.newest.find(client, caller, parameters.model)
            deadline_seconds = self.settings.deadline_seconds
            results = generate(client, model, parameters, conversations, deadline_seconds=deadline_seconds)
            if not parameters.stream:
                return JSONResponse(await while_connected(request, api.whole(client, model, parameters, results)))
            # The status is sent with the first event: what fails before it is an error like any other.
            events: AsyncGenerator[dict[str, Any], None] = api.events(client, model, parameters, results)
            first = await while_connected(request, anext(events))
            return EventStream(resumed(first, events))

        return handle

    async def nothing(self, request: Request, caller: Caller, client: AsyncClient) -> Response:
        """What is not here."""
        message = f"There is no {request.method} {request.url.path[:200]} here; docs/openai.md names what there is."
        raise NotFound(message, reason="ROUTE_NOT_FOUND")
