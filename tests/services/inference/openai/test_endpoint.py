"""The settings, keys and retries of an endpoint."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omnialign.errors import InvalidArgument
from omnialign.retry import RetryState
from services.inference.config import OpenAIConfig
from services.inference.openai.endpoint import parse_keys, retry_policy


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
