"""Trying models: a prompt with files to one or two of them side by side, with critique and judgement if wanted.

The page is one form, and its answer is the same page, which grows while the outcomes come: the connection stays open
until all are there, so that no script is needed to see them, and a browser that stops loading stops the models.
"""

import secrets
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from starlette.datastructures import FormData
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from omnialign.client import AsyncClient
from omnialign.errors import InvalidArgument, OmnialignError
from omnialign.v1 import content_pb2, record_pb2
from services.console.context import Context
from services.console.failures import status_of
from services.console.job_list import first
from services.console.security import CSRF_FIELD, check_csrf
from services.console.trial import DEFAULTS, MAX_FILES, Trial, collect_media, read_trial, written_answer
from services.console.trial_calls import Draft, outcomes, places

PATH = "/projects/{project}/try"
CHOICES_MAX, MAX_FIELDS = 200, 100
MAX_PART_BYTES = 2 * 1024 * 1024
"""Of a text in the form: an answer that is assessed comes back with it."""
DISCARDED_BYTES = 1 << 30
FROM_ADDRESS = ("model", "other")
OWN_BOUND = 1 << 62
"""Lifts the bound of the application: this page's own is a sentence on the page."""


def trying_routes(context: Context) -> list[Route]:
    """The form, and what comes of it."""

    async def show(request: Request) -> Response:
        asked = {name: request.query_params.get(name, "")[:1024] for name in FROM_ADDRESS}
        return await page(request, context.client(request), asked)

    async def page(
        request: Request,
        client: AsyncClient,
        fields: Mapping[str, str],
        media: Sequence[content_pb2.Media] = (),
        error: OmnialignError | None = None,
    ) -> Response:
        status = status_of(error) if error else 200
        values = await _values(client, fields, media)
        return context.pages.page(request, "try.html.j2", status=status, error=error, trial=None, **values)

    async def ask(request: Request) -> Response:
        client, media = context.client(request), list[content_pb2.Media]()
        await _check_size(request, context.config.max_try_bytes)
        form = await _form(request)
        try:
            fields = DEFAULTS | {name: value for name, value in form.items() if isinstance(value, str)}
            await collect_media(client, form, media)
            trial = read_trial(fields, media)
        except InvalidArgument as error:
            return await page(request, client, fields, media, error)  # what was written is not lost
        finally:
            await form.close()
        return _Growing(grow(request, client, trial, await _values(client, fields, media)))

    async def grow(
        request: Request, client: AsyncClient, trial: Trial, values: Mapping[str, Any]
    ) -> AsyncGenerator[str, None]:
        """The page up to the place of the outcomes, each of these, and the rest."""
        cut = secrets.token_hex(16)  # nobody who writes a prompt can know where the page is cut
        shown = {**values, "error": None, "trial": trial, "places": places(trial), "cut": cut}
        head, _, tail = context.pages.text(request, "try.html.j2", **shown).partition(cut)
        yield head
        answers = dict[int, record_pb2.Response]()
        async with aclosing(outcomes(client, trial, deadline_seconds=context.config.try_seconds)) as found:
            async for outcome in found:
                if isinstance(outcome, Draft):
                    yield context.pages.text(request, "try_draft.html.j2", draft=outcome, trial=trial)
                    continue
                if outcome.kind == "answer" and outcome.result is not None:
                    answers[outcome.side] = outcome.result
                yield context.pages.text(request, "try_outcome.html.j2", outcome=outcome, trial=trial)
        kept = {side: written_answer(answer) for side, answer in sorted(answers.items())}
        yield context.pages.text(request, "try_assess.html.j2", trial=trial, kept=kept, **values)
        yield tail

    return [
        Route(PATH, show, methods=["GET"]),
        Route(PATH, ask, methods=["POST"], max_body_size=OWN_BOUND),
    ]


class _Growing(StreamingResponse):
    """A page whose maker ends with it, also when the browser leaves."""

    def __init__(self, pieces: AsyncGenerator[str, None]) -> None:
        super().__init__(pieces, headers={"x-accel-buffering": "no"}, media_type="text/html")
        self._pieces = pieces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the pieces as they come."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._pieces.aclose()


async def _check_size(request: Request, limit: int) -> None:
    """Raises InvalidArgument FILES_TOO_LARGE before anything of a form is kept."""
    text = request.headers.get("content-length", "")
    length = int(text) if text.isascii() and text.isdigit() else OWN_BOUND
    if length <= limit:
        return
    if length <= DISCARDED_BYTES:  # a browser shows an answer only when it could send all
        async for _ in request.stream():
            pass
    raise InvalidArgument(
        f"The prompt and its files may have {limit / (1 << 20):g} MiB together; send fewer or smaller files.",
        reason="FILES_TOO_LARGE",
        metadata={"max_bytes": str(limit)},
    )


async def _form(request: Request) -> FormData:
    """The form with its files. Raises InvalidArgument FORM_INVALID, PermissionDenied CSRF_MISSING and CSRF_WRONG."""
    try:
        form = await request.form(max_files=MAX_FIELDS, max_fields=MAX_FIELDS, max_part_size=MAX_PART_BYTES)
    except HTTPException as error:
        raise InvalidArgument(f"The form cannot be read: {error.detail}", reason="FORM_INVALID") from None
    check_csrf(request, str(form.get(CSRF_FIELD, "")))
    return form


async def _values(
    client: AsyncClient, fields: Mapping[str, str], media: Sequence[content_pb2.Media] = ()
) -> dict[str, Any]:
    """What the form shows."""
    versions = [version async for version in first(client.list_model_versions(), CHOICES_MAX)]
    return {
        "section": "models",
        "fields": {**DEFAULTS, **fields},
        "media": media,
        "models": [version.name for version in versions if not version.reward_model],
        "max_files": MAX_FILES,
    }
