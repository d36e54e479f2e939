"""SIGKILL to each service by itself while 50 people annotate, half of them in the pages of the console.

Nothing they submitted is lost, nobody gets a seat twice, and drafts that are older than five seconds are there after
each kill. `OMNIALIGN_CHAOS_SEED` chooses the order and the moments.
"""

import asyncio
import contextlib
import os
import random
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import httpx2
import pytest

from benchmarks.annotators import Diary, TaskClient, annotate_all, check, open_campaign
from tests.chaos.page_client import PageClient
from tests.chaos.separate_services import AnnotationServices

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(900)]

SEED = int(os.environ.get("OMNIALIGN_CHAOS_SEED", "7"))
ANNOTATORS, PAIRS, OVERLAP = 50, 500, 3
THINKERS = frozenset(f"annotator-{number:03d}" for number in range(10))
"""Those who keep a draft until the next kill is over: half of them in pages."""
PACE_SECONDS = 0.5
DRAFT_SECONDS = 5.0


class Thoughts:
    """Drafts that are kept over a kill: when each was saved, and which were found again afterwards."""

    def __init__(self) -> None:
        self.saved: dict[str, float] = {}
        self._kills, self._is_over, self._changed = 0, False, asyncio.Condition()

    async def think(self, name: str) -> None:
        """Returns after the next kill; those who are not among the thinkers do not wait."""
        if name not in THINKERS:
            return
        async with self._changed:
            self.saved[name] = time.monotonic()
            self._changed.notify_all()
            kills = self._kills
            await self._changed.wait_for(lambda: self._kills > kills or self._is_over)

    async def all_are_old(self) -> None:
        """Returns once every thinker has a draft of at least that age."""
        async with self._changed:
            await self._changed.wait_for(lambda: len(self.saved) == len(THINKERS))
        await asyncio.sleep(max(self.saved.values()) + DRAFT_SECONDS - time.monotonic())  # drafts of that age are meant

    async def killed(self, *, is_last: bool) -> None:
        """Lets them look at their drafts; `annotate` fails if one is not as it was."""
        async with self._changed:
            self.saved.clear()
            self._kills, self._is_over = self._kills + 1, is_last
            self._changed.notify_all()


@contextlib.asynccontextmanager
async def people(services: AnnotationServices) -> AsyncIterator[Sequence[TaskClient]]:
    """Everybody's own client: every other one works in pages, the rest by gRPC."""
    async with contextlib.AsyncExitStack() as stack:
        found = list[TaskClient]()
        for number in range(ANNOTATORS):
            if number % 2:
                http = httpx2.AsyncClient(base_url=services.console_address, timeout=30)
                found.append(PageClient(await stack.enter_async_context(http)))
            else:
                found.append(await stack.enter_async_context(services.client("gateway")))
        yield found


async def test_annotations_and_drafts_survive_a_kill_of_each_service_by_itself(tmp_path: Path) -> None:
    draw, thoughts = random.Random(SEED), Thoughts()
    diary = Diary(pace_seconds=PACE_SECONDS, think=thoughts.think)
    async with (
        AnnotationServices.running(tmp_path) as services,
        services.client("gateway") as client,
        people(services) as own,
    ):
        campaign = await open_campaign(client, count=PAIRS, overlap=OVERLAP)
        work = asyncio.create_task(annotate_all(own, campaign, annotators=ANNOTATORS, diary=diary))
        parts = [*draw.sample(services.PARTS, k=len(services.PARTS)), "annotation", "console"]
        for number, part in enumerate(parts, start=1):
            await before(work, thoughts.all_are_old())
            await before(work, diary.reaches(len(diary.submitted) + draw.randint(1, 60)))
            repeats, submitted = diary.repeats, len(diary.submitted)
            await services.restart(part)
            await thoughts.killed(is_last=number == len(parts))
            print(f"killed {part} after {submitted} annotations; {diary.repeats - repeats} calls were made again")
            assert part != "console" or diary.repeats > repeats, (
                "nobody was at a page of the console when it was killed"
            )
        await work
        assert len(diary.submitted) == PAIRS * OVERLAP
        await check(client, campaign, diary)


async def before(work: "asyncio.Task[None]", awaited: "asyncio.Future[None]") -> None:
    """Waits for something that must happen while people are still at work."""
    reached = asyncio.ensure_future(awaited)
    await asyncio.wait({work, reached}, return_when=asyncio.FIRST_COMPLETED)
    if work.done():
        await work
    assert reached.done(), "the work was over before the kill"
    await reached
