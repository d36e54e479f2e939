"""The datasets and models that the jobs of a service use, which the data service then does not delete.

    before a job is accepted    `begin`: for an hour, after which a job that was never accepted uses nothing
    until it has ended          `keep`, every minute: for a week, again every six hours and when it uses something new
    when it ends                `end`; where that fails, or is never called, the next `keep` of this process

So a process may be killed between any two of these. What a job uses is lost only if its service is away for a week, and
outlives a job by a week at most, if the process that ended the job was killed before it said so.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from math import inf

from google.protobuf.message import Message

from omnialign import names
from omnialign.client import AsyncClient
from omnialign.errors import OmnialignError
from services.runtime.auth.references import find_references
from services.runtime.logs import Recurring

ACCEPTANCE_SECONDS = 3600.0
LEASE_SECONDS = 7 * 24 * 3600.0
RENEW_SECONDS = 6 * 3600.0
KEEP_SECONDS = 60.0
ROUND_SECONDS = 30.0
END_SECONDS = 5.0
"""How long the end of a job waits for the data service."""
ADAPTER = "?adapter="
"""What the URI of a model behind an endpoint names its adapter with."""

Ask = Callable[[Callable[[AsyncClient], Awaitable[None]]], Awaitable[None]]
"""Calls a function with a client of the data service."""
Unfinished = Callable[[], Awaitable[Mapping[str, Sequence[Message]]]]
"""The jobs of a kind that have not ended, by name, each with the messages that name what it uses."""

logger = logging.getLogger(__name__)


class Uses:
    """The uses of one kind of jobs. Between `start` and `close` they are kept in the background."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._kept: dict[str, tuple[frozenset[str], float]] = {}
        self._rounds = Recurring(logger)
        self._task: asyncio.Task[None] | None = None

    async def start(self, unfinished: Unfinished) -> None:
        """Begins to keep what the unfinished jobs use."""
        self._task = asyncio.create_task(self._run(unfinished), name="uses")

    async def close(self) -> None:
        """Stops; uses go on for as long as was said last."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def begin(self, user: str, *messages: Message, allow_missing: bool = False) -> None:
        """Says what a job is to use before it is accepted: what its messages name.

        Raises NotFound for what does not exist, unless `allow_missing`.
        """
        if found := names_in(*messages):
            ttl = ACCEPTANCE_SECONDS
            await self._ask(lambda c: c.begin_use(user, found, ttl_seconds=ttl, allow_missing=allow_missing))

    async def keep(self, users: Mapping[str, Sequence[Message]]) -> None:
        """Says again what jobs use, of which these have not ended, and ends what all others of this kind used."""
        for user, messages in users.items():
            found = names_in(*messages)
            known, kept_at = self._kept.get(user, (frozenset(), -inf))
            if found and (found != known or time.monotonic() - kept_at > RENEW_SECONDS):
                # What was deleted by force is no reason to lose the rest.
                await self._ask(lambda c: c.begin_use(user, found, ttl_seconds=LEASE_SECONDS, allow_missing=True))  # noqa: B023
                self._kept[user] = found, time.monotonic()
        for user in self._kept.keys() - users.keys():
            await self._end(user)

    async def end(self, user: str) -> None:
        """Says that a job needs nothing more. If the data service does not answer soon, the next `keep` does it."""
        self._kept.setdefault(user, (frozenset(), -inf))
        with suppress(OmnialignError, TimeoutError):
            async with asyncio.timeout(END_SECONDS):
                await self._end(user)

    async def _run(self, unfinished: Unfinished) -> None:
        what = "saying what jobs use"
        while True:
            try:
                async with asyncio.timeout(ROUND_SECONDS):
                    await self.keep(await unfinished())
            except Exception as error:
                self._rounds.failed(what, error)
            else:
                self._rounds.succeeded(what)
            await asyncio.sleep(KEEP_SECONDS)

    async def _end(self, user: str) -> None:
        await self._ask(lambda client: client.end_use(user))
        self._kept.pop(user, None)


def names_in(*messages: Message) -> frozenset[str]:
    """The datasets, models and versions of them that messages name."""
    texts = (text.rpartition(ADAPTER)[2] for message in messages for text, _ in find_references(message))
    return frozenset(text for text in texts if _is_used(text))


def _is_used(text: str) -> bool:
    if any(names.matches(text, pattern) for pattern in (names.DATASET, names.MODEL)):
        return True
    is_version = any(names.matches(text, pattern) for pattern in (names.DATASET_VERSION, names.MODEL_VERSION))
    number = names.id_of(text)
    return is_version and (number == names.NEWEST or (number.isascii() and number.isdigit() and len(number) < 19))
