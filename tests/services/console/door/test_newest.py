import asyncio

import pytest

from omnialign.errors import NotFound
from services.console.door.callers import Caller
from services.console.door.newest import MAX_KEPT, NewestVersions

ANN, BOB = Caller("ann", "default"), Caller("bob", "default")


class Registry:
    """Gives the number of the call as the version, once it may."""

    def __init__(self):
        self.calls, self.may_answer = 0, asyncio.Event()
        self.may_answer.set()

    async def find_model(self, model):
        self.calls += 1
        number = self.calls
        await self.may_answer.wait()
        if model == "absent":
            raise NotFound("There is none.", reason="MODEL_VERSION_NOT_FOUND")
        return f"{model}/{number}"


class Clock:
    seconds = 0.0

    def __call__(self):
        return self.seconds


@pytest.fixture
def registry():
    return Registry()


async def test_requests_that_come_together_are_looked_up_once_and_later_ones_anew(registry):
    clock = Clock()
    newest = NewestVersions(clock=clock)
    assert await asyncio.gather(*(newest.find(registry, ANN, "base") for _ in range(8))) == ["base/1"] * 8
    clock.seconds = 0.9
    assert await newest.find(registry, ANN, "base") == "base/1"
    clock.seconds = 2.0
    assert await newest.find(registry, ANN, "base") == "base/2"


async def test_each_caller_asks_with_own_rights(registry):
    newest = NewestVersions(clock=Clock())
    found = [await newest.find(registry, caller, "base") for caller in (ANN, BOB, Caller("ann", "other"))]
    assert found == ["base/1", "base/2", "base/3"]


async def test_a_failure_is_not_kept(registry):
    newest = NewestVersions(clock=Clock())
    for _ in range(2):
        with pytest.raises(NotFound):
            await newest.find(registry, ANN, "absent")
    assert registry.calls == 2


async def test_a_request_that_is_cancelled_does_not_end_the_lookup_of_others(registry):
    newest = NewestVersions(clock=Clock())
    registry.may_answer.clear()
    first, second = [asyncio.create_task(newest.find(registry, ANN, "base")) for _ in range(2)]
    await asyncio.sleep(0)
    first.cancel()
    registry.may_answer.set()
    assert await second == "base/1"


async def test_names_that_callers_make_up_do_not_pile_up(registry):
    newest = NewestVersions(clock=Clock())
    for number in range(MAX_KEPT + 5):
        await newest.find(registry, ANN, f"model-{number}")
    assert len(newest._kept) == MAX_KEPT
