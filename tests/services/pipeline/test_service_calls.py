"""Waiting for services that are away."""

import pytest

from omnialign import errors
from omnialign.retry import RetryPolicy
from services.pipeline.service_calls import MAX_INTERNAL_ERRORS, MAX_UNSEEN_RACES, ServiceRetrier


class Flaky:
    """Fails with an error a number of times, then answers."""

    def __init__(self, error: Exception, times: int) -> None:
        self.error, self.times, self.calls = error, times, 0

    async def __call__(self) -> str:
        self.calls += 1
        if self.calls <= self.times:
            raise self.error
        return "answer"


def retrier(told: list[tuple[str, str, str]], *, budget_seconds: float = 60.0) -> ServiceRetrier:
    async def announce(uid: str, service: str, problem: str) -> None:
        told.append((uid, service, problem))

    policy = RetryPolicy(base_seconds=0.001, cap_seconds=0.001, budget_seconds=budget_seconds)
    return ServiceRetrier(policy, announce=announce)


async def test_a_service_that_comes_back_is_waited_for_and_announced_once() -> None:
    told: list[tuple[str, str, str]] = []
    flaky = Flaky(errors.Unavailable("gone"), 5)
    assert await retrier(told).call(flaky, uid="u", service="judge") == "answer"
    assert flaky.calls == 6
    assert told == [("u", "judge", "gone"), ("u", "judge", "")]


async def test_a_race_that_is_lost_is_no_wait_until_it_is_lost_again_and_again() -> None:
    told: list[tuple[str, str, str]] = []
    assert await retrier(told).call(Flaky(errors.Aborted("raced"), MAX_UNSEEN_RACES), uid="u", service="data")
    assert told == []
    assert await retrier(told).call(Flaky(errors.Aborted("raced"), MAX_UNSEEN_RACES + 1), uid="u", service="data")
    assert told == [("u", "data", "raced"), ("u", "data", "")]


async def test_a_request_that_can_never_succeed_is_not_repeated() -> None:
    flaky = Flaky(errors.NotFound("no such model"), 5)
    with pytest.raises(errors.NotFound):
        await retrier([]).call(flaky, uid="u", service="judge")
    assert flaky.calls == 1


async def test_a_fault_of_the_service_is_repeated_a_few_times() -> None:
    flaky = Flaky(errors.Internal("bug"), 100)
    with pytest.raises(errors.Internal):
        await retrier([]).call(flaky, uid="u", service="judge")
    assert flaky.calls == MAX_INTERNAL_ERRORS + 1


async def test_a_wait_ends_when_its_budget_is_spent() -> None:
    flaky = Flaky(errors.Unavailable("gone"), 10**9)
    with pytest.raises(errors.Unavailable) as caught:
        await retrier([], budget_seconds=0.05).call(flaky, uid="u", service="judge")
    assert caught.value.reason == "SERVICE_UNAVAILABLE"
    assert caught.value.metadata["service"] == "judge"


async def test_a_token_that_another_service_does_not_know_yet_is_waited_for() -> None:
    told: list[tuple[str, str, str]] = []
    flaky = Flaky(errors.Unauthenticated("who are you?"), 2)
    assert await retrier(told).call(flaky, uid="u", service="data") == "answer"
    assert told == [("u", "data", "who are you?"), ("u", "data", "")]
