"""The adaptive limit, and the limiter that enforces it."""

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from services.inference.openai.concurrency import AdaptiveLimit, ConcurrencyLimiter
from tests.services.inference.stub_endpoint import QuickClock


class LimitMachine(RuleBasedStateMachine):
    """An endpoint's requests as they begin, are answered or meet an overload, in any order."""

    requests = Bundle("requests")

    @initialize(maximum=st.integers(1, 300))
    def open(self, maximum):
        self.limit, self.maximum = AdaptiveLimit(maximum), maximum

    @rule(target=requests)
    def begin(self):
        return self.limit.round

    @rule(request=consumes(requests), seconds=st.floats(0, 1000), was_full=st.booleans())
    def answer(self, request, seconds, was_full):
        before = self.limit.value
        self.limit.succeeded(seconds=seconds, was_full=was_full)
        assert self.limit.value <= before + 1
        assert was_full or self.limit.value == before

    @rule(request=consumes(requests))
    def overload(self, request):
        before, is_news = self.limit.value, request == self.limit.round
        self.limit.overloaded(began=request)
        assert self.limit.value == before or is_news
        if is_news:
            assert self.limit.value <= max(1, before // 2 + 1)
            again = self.limit.value
            self.limit.overloaded(began=request)  # of the same round trip
            assert self.limit.value == again

    @invariant()
    def stays_within_its_bounds(self):
        assert 1 <= self.limit.value <= self.maximum


LimitMachine.TestCase.settings = settings(max_examples=50, stateful_step_count=60)
TestLimit = LimitMachine.TestCase


def answers(limit, count, *, seconds):
    for _ in range(count):
        limit.succeeded(seconds=seconds, was_full=True)


def test_the_limit_rises_to_its_maximum_and_comes_back_after_a_cut():
    limit = AdaptiveLimit(64)
    answers(limit, 60, seconds=1.0)
    assert limit.value == 64
    limit.overloaded(began=limit.round)
    assert limit.value == 32
    answers(limit, 64, seconds=1.0)
    assert 33 <= limit.value <= 35  # by one per round trip from now on
    answers(limit, 4000, seconds=1.0)
    assert limit.value == 64


def test_an_endpoint_that_batches_is_not_held_back_by_its_latency():
    limit = AdaptiveLimit(64)
    for _ in range(500):
        limit.succeeded(seconds=0.5 + 0.05 * limit.value, was_full=True)
    assert limit.value == 64


def test_latency_that_grows_while_answers_get_fewer_lowers_the_limit():
    limit = AdaptiveLimit(64)
    for _ in range(2000):
        limit.succeeded(seconds=0.1 * max(1.0, limit.value / 16) ** 3, was_full=True)
    assert limit.value < 40


class LimiterMachine:
    """Tasks at a limiter."""

    def __init__(self, maximum):
        self.clock = QuickClock()
        self.limiter = ConcurrencyLimiter(AdaptiveLimit(maximum), self.clock)
        self.inside = self.most = 0

    async def visit(self, leave):
        await self.limiter.acquire()
        self.inside += 1
        self.most = max(self.most, self.inside)
        try:
            await leave.wait()
        finally:
            self.inside -= 1
            self.limiter.release()


@given(st.integers(1, 6), st.lists(st.integers(0, 2), min_size=1, max_size=30))
def test_cancelled_visitors_leave_no_place_behind(maximum, fates):
    async def scenario():
        machine, leave = LimiterMachine(maximum), asyncio.Event()
        tasks = [asyncio.create_task(machine.visit(leave)) for _ in fates]
        for task, fate in zip(tasks, fates, strict=True):
            if fate:
                await asyncio.sleep(0)
                task.cancel()
            if fate == 2:
                await asyncio.sleep(0)
        leave.set()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert (machine.limiter.num_running, machine.inside) == (0, 0)
        assert machine.most <= maximum
        await asyncio.wait_for(machine.visit(leave), 5)

    asyncio.run(scenario())


async def test_a_pause_holds_everybody_back():
    machine, leave = LimiterMachine(4), asyncio.Event()
    leave.set()
    machine.limiter.pause(30)
    machine.limiter.pause(10)  # the longer one holds
    await asyncio.gather(*(machine.visit(leave) for _ in range(3)))
    assert machine.clock.seconds == pytest.approx(30, abs=0.01)
