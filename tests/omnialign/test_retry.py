import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omnialign.retry import RetryPolicy, RetryState, wait_for_event


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def state(policy: RetryPolicy) -> tuple[RetryState, Clock]:
    clock = Clock()
    return RetryState(policy, draw=lambda: 0.0, clock=clock), clock


def test_pauses_double_up_to_the_cap() -> None:
    policy = RetryPolicy(base_seconds=0.1, cap_seconds=1.0, jitter=0.0)
    assert [policy.pause_seconds(n) for n in range(1, 7)] == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.0, 1.0])


@given(
    base=st.floats(0.001, 10),
    factor=st.floats(1, 10),
    jitter=st.floats(0, 1),
    failures=st.integers(1, 10_000),
    draw=st.floats(0, 1, exclude_max=True),
)
def test_a_pause_lies_between_its_jittered_minimum_and_the_cap(
    base: float, factor: float, jitter: float, failures: int, draw: float
) -> None:
    policy = RetryPolicy(base_seconds=base, factor=factor, jitter=jitter, cap_seconds=base * 100)
    pause = policy.pause_seconds(failures, draw=lambda: draw)
    assert base * (1 - jitter) * (1 - 1e-9) <= pause <= policy.cap_seconds


def test_attempts_are_counted_with_the_first_one() -> None:
    retries, _ = state(RetryPolicy(max_attempts=3))
    assert [retries.next_pause_seconds() is None for _ in range(3)] == [False, False, True]


def test_no_attempt_begins_after_the_budget() -> None:
    retries, clock = state(RetryPolicy(base_seconds=1.0, cap_seconds=1.0, jitter=0.0, budget_seconds=10.0))
    assert retries.next_pause_seconds() == 1.0
    clock.now += 9.0
    assert retries.next_pause_seconds() == 1.0
    clock.now += 0.1
    assert retries.next_pause_seconds() is None


def test_a_budget_of_zero_means_no_retry() -> None:
    retries, _ = state(RetryPolicy(budget_seconds=0.0))
    assert retries.next_pause_seconds() is None


def test_what_the_server_asks_for_is_waited_beyond_the_cap_but_within_the_budget() -> None:
    retries, _ = state(RetryPolicy(cap_seconds=1.0, budget_seconds=30.0))
    assert retries.next_pause_seconds(retry_after_seconds=20.0) == 20.0
    assert retries.next_pause_seconds(retry_after_seconds=31.0) is None


def test_progress_gives_the_whole_budget_back() -> None:
    retries, clock = state(RetryPolicy(base_seconds=0.5, budget_seconds=1.0, max_attempts=3))
    retries.next_pause_seconds()
    clock.now += 100.0
    retries.reset()
    assert retries.failed_at is None
    assert retries.next_pause_seconds() == 0.5


@pytest.mark.parametrize("wrong", [{"factor": 0.5}, {"jitter": 1.5}, {"base_seconds": 2.0, "cap_seconds": 1.0}])
def test_a_policy_that_makes_no_sense_names_its_field(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        RetryPolicy(**wrong)


async def test_waiting_for_an_event_says_whether_it_was_set() -> None:
    event = asyncio.Event()
    assert not await wait_for_event(event, timeout_seconds=0.01)
    event.set()
    assert await wait_for_event(event, timeout_seconds=10.0)


async def test_a_cancellation_that_comes_together_with_the_event_is_not_lost() -> None:
    event = asyncio.Event()
    waiting = asyncio.create_task(wait_for_event(event, timeout_seconds=10.0))
    await asyncio.sleep(0)
    event.set()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
