"""The list of jobs of all kinds, newest first, and its filters."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from omnialign.client import AsyncClient
from services.console.context import Context
from services.console.job_kinds import KINDS, STATES, JobKind

T = TypeVar("T")

SHOWN, SHOWN_MAX = 50, 1000
LOOKED_AT_MAX = 2000
"""Jobs of a kind among which those in a state are looked for."""


@dataclass(frozen=True)
class Listed:
    """A job in the list."""

    kind: JobKind
    job: Any

    @property
    def state(self) -> str:
        """Its state in one word."""
        return self.kind.state(self.job)

    @property
    def subject(self) -> str:
        """What it is about."""
        return self.kind.subject(self.job)


async def found_jobs(client: AsyncClient, *, kinds: tuple[JobKind, ...], state: str, limit: int) -> list[Listed]:
    """The newest jobs of these kinds, in any state for ""; one more than `limit` if there are more."""
    lists = await asyncio.gather(*(_some(client, kind, state=state, limit=limit + 1) for kind in kinds))
    merged = [one for some in lists for one in some]
    return sorted(merged, key=lambda one: one.job.create_time.ToNanoseconds(), reverse=True)[: limit + 1]


async def _some(client: AsyncClient, kind: JobKind, *, state: str, limit: int) -> list[Listed]:
    some = list[Listed]()
    async for job in first(kind.listed(client), LOOKED_AT_MAX):
        if not state or kind.state(job) == state:
            some.append(Listed(kind, job))
            if len(some) == limit:
                break
    return some


async def first(items: AsyncIterator[T], limit: int) -> AsyncIterator[T]:
    """The first items of a list that may be long."""
    number = 0
    async for item in items:
        yield item
        number += 1
        if number == limit:
            return


def shown(request: Request) -> int:
    """How many a list shows, from its address."""
    asked = request.query_params.get("shown", "")
    return min(max(int(asked), 1), SHOWN_MAX) if asked.isascii() and asked.isdigit() and len(asked) < 9 else SHOWN


def job_list_routes(context: Context) -> list[Route]:
    """The page of all jobs."""

    async def jobs(request: Request) -> Response:
        client, limit = context.client(request), shown(request)
        wanted = request.query_params.get("kind", "")
        state = request.query_params.get("state", "")
        kinds = tuple(kind for kind in KINDS if kind.collection == wanted) or KINDS
        found = await found_jobs(client, kinds=kinds, state=state if state in STATES else "", limit=limit)
        return context.pages.page(
            request,
            "jobs.html.j2",
            section="jobs",
            jobs=found[:limit],
            more=limit + SHOWN if len(found) > limit else 0,
            kinds=KINDS,
            states=STATES,
            kind=kinds[0].collection if len(kinds) == 1 else "",
            state=state,
        )

    return [Route("/projects/{project}/jobs", jobs)]
