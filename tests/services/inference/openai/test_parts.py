"""The parts of the OpenAI-compatible engine by themselves: names, keys, waits, the limit and the gate."""

import asyncio
from email.utils import formatdate

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from omnialign.errors import InvalidArgument
from omnialign.retry import RetryState
from services.inference.config import OpenAIConfig
from services.inference.model_uri import base_url_of, is_endpoint_model, parse_endpoint_model
from services.inference.openai.concurrency import AdaptiveLimit, ConcurrencyLimiter
from services.inference.openai.endpoint import parse_keys, retry_policy
from services.inference.openai.errors import parse_retry_after
from tests.services.inference.stub_endpoint import STARTED_AT, QuickClock

REGISTERED = "projects/p/models/q/versions/1"


@pytest.mark.parametrize(
    ("name", "base_url", "model", "adapter"),
    [
        ("openai+http://host/v1#m", "http://host/v1", "m", ""),
        ("openai+http://HOST:80/v1/#org/m", "http://host/v1", "org/m", ""),
        ("openai+https://h:8443/v1#m", "https://h:8443/v1", "m", ""),
        ("openai+http://[::1]:8000/v1#m", "http://[::1]:8000/v1", "m", ""),
        ("openai+http://h/v1#m?adapter=file:///a%20b", "http://h/v1", "m", "file:///a b"),
        ("openai+http://h/v1#m?adapter=projects/p/models/q/versions/1", "http://h/v1", "m", REGISTERED),
    ],
)
def test_a_name_has_an_address_a_model_and_perhaps_an_adapter(name, base_url, model, adapter):
    found = parse_endpoint_model(name)
    assert (found.base_url, found.name, found.adapter) == (base_url, model, adapter)


@pytest.mark.parametrize(
    "name",
    [
        "openai+http://h/v1",
        "openai+http://h/v1#",
        "openai+http://#m",
        "openai+ftp://h/v1#m",
        "openai+http://user:secret@h/v1#m",
        "openai+http://h/v1?key=1#m",
        "openai+http://h:x/v1#m",
        "openai+http://h:99999/v1#m",
        "openai+http://[::1/v1#m",
        "openai+http://h/v1#m?adapter",
        "openai+http://h/v1#m?other=1",
        "openai+http://h/v1#m?adapter=a&adapter=b",
        "openai+http://h /v1#m",
        "file:///models/m",
    ],
)
def test_other_names_are_refused(name):
    with pytest.raises(InvalidArgument) as caught:
        parse_endpoint_model(name)
    assert caught.value.reason == "MODEL_NAME_INVALID"


@given(st.text())
def test_no_text_breaks_the_parser_of_names(text):
    for name in (text, f"openai+http://{text}", f"openai+https://h/v1#{text}"):
        try:
            found = parse_endpoint_model(name)
        except InvalidArgument:
            continue
        assert is_endpoint_model(name)
        assert base_url_of(found.base_url, model="") == found.base_url


def test_only_settings_that_can_be_are_taken():
    config = OpenAIConfig(openai_endpoints=("ftp://h",), openai_concurrency=0, openai_retry_seconds=float("nan"))
    assert {name for name, _ in config.problems()} == {
        "openai_endpoints",
        "openai_concurrency",
        "openai_retry_seconds",
    }
    assert list(OpenAIConfig(openai_endpoints=("http://h:8000/v1",)).problems()) == []


def test_keys_are_read_by_endpoint():
    assert parse_keys("# ours\n\nhttp://H:80/v1/  abc \nhttps://h/v1 def\n") == {
        "http://h/v1": "abc",
        "https://h/v1": "def",
    }


@pytest.mark.parametrize("line", ["secret", "http://h/v1 secret more", "secret http://h/v1", "http://h/v1 sécret"])
def test_a_bad_line_of_keys_is_named_by_its_number_alone(line):
    with pytest.raises(InvalidArgument, match="Line 2") as caught:
        parse_keys(f"\n{line}")
    assert "secret" not in f"{caught.value.message} {caught.value.metadata}"
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


@given(st.integers(0, 10**9))
def test_a_number_of_seconds_is_itself(seconds):
    assert parse_retry_after(f" {seconds} ", date=STARTED_AT) == seconds


@given(st.integers(-(10**8), 10**8))
def test_a_date_is_the_time_until_then(seconds):
    header = formatdate(STARTED_AT + seconds, usegmt=True)
    assert parse_retry_after(header, date=STARTED_AT) == max(0, seconds)


@given(st.none() | st.text())
def test_what_makes_no_sense_asks_for_nothing(header):
    found = parse_retry_after(header, date=STARTED_AT)
    assert found is None or 0 <= found < float("inf")


@given(
    st.integers(0, 20),
    st.floats(0.1, 1000),
    st.lists(st.tuples(st.floats(0, 50), st.none() | st.floats(0, 100)), max_size=40),
)
def test_a_budget_bounds_the_count_and_the_time(max_retries, seconds, failures):
    policy = retry_policy(OpenAIConfig(openai_max_retries=max_retries, openai_retry_seconds=seconds))
    now, num_retries, first = 0.0, 0, None
    retries = RetryState(policy, clock=lambda: now)
    for elapsed, retry_after in failures:
        now += elapsed
        first = now if first is None else first
        pause = retries.next_pause_seconds(retry_after_seconds=retry_after or 0.0)
        if pause is None:
            break
        num_retries += 1
        now += pause
        assert (retry_after or 0) <= pause <= max(policy.cap_seconds, retry_after or 0)
        assert now - first <= seconds
    assert num_retries <= max_retries


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


LimitMachine.TestCase.settings = settings(max_examples=50, stateful_step_count=60, deadline=None)
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
