"""The `Retry-After` header."""

from email.utils import formatdate

from hypothesis import given
from hypothesis import strategies as st

from services.inference.openai.errors import parse_retry_after
from tests.services.inference.stub_endpoint import STARTED_AT


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
