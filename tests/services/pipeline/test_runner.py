"""How the workflow of a job queues its chunks, and how it learns what becomes of them."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from services.pipeline.kind import Phase, Step
from services.pipeline.notifier import Notifier
from services.pipeline.runner import JobRunner, RunningJob
from services.pipeline.workflow_engine import WorkflowEngine
from tests.service_stack import SECONDS

LAST = ("uid-1", "loop", "verify")


class Engine:
    """Replays what a step returned before."""

    group_size = WorkflowEngine.group_size

    def __init__(self, kept: str) -> None:
        self.kept, self.submitted = kept, list[tuple[int, int]]()

    async def step(self, name: str, body: object) -> str:
        return self.kept if name.startswith("plan_") else ""

    async def submit_chunks(self, uid: str, phase: str, count: int, *, size: int) -> None:
        self.submitted.append((count, size))


class Gate:
    """Holds nothing back."""

    async def wait_while_paused(self, uid: str) -> None:
        return


@pytest.mark.parametrize(("kept", "queued"), [("100/4", (100, 4)), ("100", (100, 1)), ("0/1", (0, 1)), ("", (0, 1))])
async def test_a_replay_queues_the_groups_that_were_queued_before(kept: str, queued: tuple[int, int]) -> None:
    engine = Engine(kept)  # a bare number is what the release before kept, whose chunks were queued one by one
    runner = cast("JobRunner", SimpleNamespace(engine=engine, gate=Gate()))
    step = Step(name="verify", stage="verify", reads="", writes="", run=cast("Any", None), tokens=lambda record: 0)
    await RunningJob(runner, "uid-1").chunks(Phase(name="loop", steps=(step,), plan=cast("Any", None)))
    assert engine.submitted == [queued]


async def test_news_come_when_the_last_chunks_commit_or_one_fails() -> None:
    for change in (
        lambda notifier: notifier.steps_committed({LAST: 2}),
        lambda notifier: notifier.chunk_failed("uid-1"),
    ):
        notifier = Notifier()
        news = notifier.news(LAST)
        waiting = asyncio.create_task(news.wait(2, soon_seconds=SECONDS, timeout_seconds=SECONDS))
        notifier.steps_committed({("uid-1", "loop", "sample"): 5})
        notifier.steps_committed({("uid-2", "loop", "verify"): 5})
        notifier.chunk_failed("uid-2")
        await asyncio.sleep(0)
        assert not waiting.done()
        change(notifier)
        await asyncio.wait_for(waiting, SECONDS)


async def test_what_happened_before_the_wait_is_news() -> None:
    notifier = Notifier()
    news = notifier.news(LAST)
    notifier.steps_committed({LAST: 1})
    await asyncio.wait_for(news.wait(1, soon_seconds=SECONDS, timeout_seconds=SECONDS), SECONDS)


async def test_with_chunks_left_the_wait_ends_soon_after_a_commit_and_late_without() -> None:
    notifier = Notifier()
    news = notifier.news(LAST)
    notifier.steps_committed({LAST: 1})
    await asyncio.wait_for(news.wait(2, soon_seconds=0.01, timeout_seconds=SECONDS), SECONDS)
    await asyncio.wait_for(notifier.news(LAST).wait(2, soon_seconds=SECONDS, timeout_seconds=0.01), SECONDS)
