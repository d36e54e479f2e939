"""How much a project may have, and how fast it may call."""

from contextlib import ExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omnialign.client.context import CURRENT_CALL, Call
from omnialign.errors import InvalidArgument, ResourceExhausted
from services.runtime import limits as module
from services.runtime.context import Caller, Role
from services.runtime.limits import Places, Quotas, RateLimiter, parse_quotas

FILE = "default: {datasets: 2, training_jobs: 1}\nprojects:\n  big: {datasets: 9}\n"


async def used(count: int) -> int:
    return count


def test_a_projects_own_number_takes_the_place_of_the_default():
    table = parse_quotas(FILE)
    assert [table.limit(project, "datasets") for project in ("small", "big")] == [2, 9]
    assert [table.limit(project, "training_jobs") for project in ("small", "big")] == [1, 1]
    assert table.limit("small", "alignment_jobs") is None
    assert parse_quotas("").limit("small", "datasets") is None


def test_all_problems_of_a_file_are_told():
    with pytest.raises(InvalidArgument) as caught:
        parse_quotas("default: {cars: 1, datasets: -1}\nprojects: {Big: {datasets: many}, other: 3}")
    assert [where for where, _ in caught.value.violations] == [
        "default.cars",
        "default.datasets",
        "projects.Big",
        "projects.Big.datasets",
        "projects.other",
    ]


@given(st.text())
def test_any_text_is_read_or_refused(text):
    try:
        parse_quotas(text)
    except InvalidArgument as error:
        assert error.violations


async def test_one_too_many_is_refused_with_the_numbers(tmp_path):
    (tmp_path / "quotas").write_text(FILE)
    quotas = Quotas(tmp_path / "quotas")
    await quotas.check("projects/small", "datasets", lambda: used(1))
    with pytest.raises(ResourceExhausted) as caught:
        await quotas.check("projects/small", "datasets", lambda: used(2))
    assert caught.value.reason == "QUOTA_EXCEEDED"
    assert caught.value.metadata == {"project": "small", "quota": "datasets", "limit": "2", "used": "2"}


async def test_without_a_limit_nothing_is_counted(tmp_path):
    (tmp_path / "quotas").write_text(FILE)
    await Quotas(tmp_path / "quotas").check("projects/small", "alignment_jobs", never)
    await Quotas().check("projects/small", "datasets", never)


async def never() -> int:
    raise AssertionError("counted")


async def test_our_own_services_are_let_through(tmp_path):
    (tmp_path / "quotas").write_text(FILE)
    call = Call("id", None, "", None, caller=Caller("alignment", {"*": Role.SERVICE}))
    token = CURRENT_CALL.set(call)
    try:
        await Quotas(tmp_path / "quotas").check("projects/small", "datasets", never)
    finally:
        CURRENT_CALL.reset(token)


def test_a_bucket_is_empty_after_its_burst_and_fills_at_its_rate():
    limits = RateLimiter(per_second=2, burst=3)
    for _ in range(3):
        limits.take("demo", now=100.0)
    with pytest.raises(ResourceExhausted) as caught:
        limits.take("demo", now=100.0)
    assert caught.value.metadata["retry_after_seconds"] == "0.500"
    limits.take("other", now=100.0)
    limits.take("demo", now=100.5)
    with pytest.raises(ResourceExhausted):
        limits.take("demo", now=100.6)


def test_who_waits_as_long_as_told_gets_through():
    limits, now = RateLimiter(per_second=3, burst=1), 5.0
    for _ in range(20):
        try:
            limits.take("demo", now=now)
        except ResourceExhausted as error:
            now += float(error.metadata["retry_after_seconds"]) + 0.001
            limits.take("demo", now=now)


def test_the_projects_that_are_remembered_have_a_bound(monkeypatch):
    monkeypatch.setattr(module, "MAX_BUCKETS", 3)
    limits = RateLimiter(per_second=1, burst=1)
    for number in range(10):
        limits.take(f"p{number}", now=1.0)
    assert len(limits._buckets) == 3


@given(st.lists(st.floats(0, 2), max_size=60), st.integers(1, 5), st.floats(0.5, 20))
def test_never_more_than_the_burst_and_the_rate_allow(pauses, burst, per_second):
    limits, now, let_through = RateLimiter(per_second=per_second, burst=burst), 10.0, 0
    for pause in pauses:
        now += pause
        try:
            limits.take("demo", now=now)
            let_through += 1
        except ResourceExhausted:
            pass
    assert let_through <= burst + (now - 10.0) * per_second + 1e-6


def call_of(name: str = "", role: Role = Role.SUBMITTER, *, project: str = "p", token: str = "") -> Call:
    who = Caller(name, {"*": role}) if name else None
    resource = f"projects/{project}/datasets/d" if name else ""
    return Call("request", None, token, None, caller=who, resource=resource)


def held(stack: ExitStack, places: Places, call: Call) -> int:
    """How many places the calls of one caller get before they are refused."""
    for count in range(1000):
        try:
            stack.enter_context(places.for_call(call))
        except ResourceExhausted as error:
            assert error.reason == "TOO_MANY_CALLS"
            return count
    raise AssertionError("there is no limit")


def test_no_caller_and_no_project_can_take_all_places():
    places = Places(32)
    with ExitStack() as stack:
        assert held(stack, places, call_of("ann")) == 16
        assert held(stack, places, call_of("bob")) == 8  # their project has three quarters now
        assert held(stack, places, call_of("eve", project="q")) == 4  # the last eighth is kept
        assert held(stack, places, call_of("trainer", Role.SERVICE)) == 4
    with ExitStack() as stack:
        assert held(stack, places, call_of("ann")) == 16  # all of them were given back


def test_without_identities_the_server_has_one_limit_and_a_token_half_of_it():
    places = Places(32)
    with ExitStack() as stack:
        assert held(stack, places, call_of(token="Bearer a")) == 16
        assert held(stack, places, call_of()) == 16


def test_silent_calls_of_one_connection_leave_room_for_others():
    places = Places(8)
    with ExitStack() as stack:
        for _ in range(4):
            stack.enter_context(places.while_silent("ipv4:10.0.0.1:1"))
        with pytest.raises(ResourceExhausted) as caught:
            stack.enter_context(places.while_silent("ipv4:10.0.0.1:1"))
        assert caught.value.metadata["scope"] == "connection"
        stack.enter_context(places.while_silent("ipv4:10.0.0.2:1"))
        assert held(stack, places, call_of()) == 8
