"""SIGKILL at random moments while 50 people annotate: nothing they submitted is lost, and nobody gets a seat twice."""

import asyncio
import contextlib
import os
import random
from pathlib import Path

import pytest

from benchmarks.annotators import Diary, annotate_all, check, open_campaign
from omnialign.client import AsyncClient
from tests.chaos.stack_process import StackProcess

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(600)]

SEED = int(os.environ.get("OMNIALIGN_CHAOS_SEED", "7"))
COMMAND = ("-m", "tests.chaos.annotation_stack", "{root}", "{port}")
ANNOTATORS, PAIRS, OVERLAP, KILLS = 50, 300, 3, 5


async def test_annotations_survive_five_kills_and_no_seat_is_given_twice(tmp_path: Path) -> None:
    draw, diary = random.Random(SEED), Diary()
    stack = StackProcess(tmp_path / "stack", COMMAND, look="list_campaigns")
    await stack.start()
    try:
        async with contextlib.AsyncExitStack() as clients:
            own = [await clients.enter_async_context(AsyncClient(stack.address)) for _ in range(ANNOTATORS)]
            campaign = await open_campaign(client := own[0], count=PAIRS, overlap=OVERLAP)
            work = asyncio.create_task(annotate_all(own, campaign, annotators=ANNOTATORS, diary=diary))
            for share in sorted(draw.uniform(0.02, 0.9) for _ in range(KILLS)):
                reached = asyncio.create_task(diary.reaches(int(share * PAIRS * OVERLAP)))
                await asyncio.wait({work, reached}, return_when=asyncio.FIRST_COMPLETED)
                stack.kill()
                await stack.start()
            await work
            assert len(diary.submitted) == PAIRS * OVERLAP
            await check(client, campaign, diary)
    finally:
        stack.kill()
