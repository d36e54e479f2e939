"""The verdict over both orders, as a table."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omnialign.v1 import record_pb2
from services.judge.verdict import verdict

WIN, TIE, LOSS, ABSTAIN = (getattr(record_pb2, f"VERDICT_{name}") for name in ("WIN", "TIE", "LOSS", "ABSTAIN"))
ANSWERS = st.sampled_from([0, 1, 2, None])
SWAPPED = {0: 0, 1: 2, 2: 1, None: None}
MIRROR = {WIN: LOSS, LOSS: WIN, TIE: TIE, ABSTAIN: ABSTAIN}


@pytest.mark.parametrize(
    ("forward", "backward", "expected"),
    [
        (2, 1, WIN),
        (1, 2, LOSS),
        (1, 1, TIE),
        (2, 2, TIE),
        (0, 0, TIE),
        (2, 0, TIE),
        (0, 1, TIE),
        (1, 0, TIE),
        (0, 2, TIE),
        (None, 1, ABSTAIN),
        (2, None, ABSTAIN),
        (None, None, ABSTAIN),
    ],
)
def test_the_table(forward, backward, expected):
    assert verdict(forward, backward) == expected


@given(ANSWERS, ANSWERS)
def test_swapping_the_responses_mirrors_the_verdict(forward, backward):
    assert verdict(backward, forward) == MIRROR[verdict(forward, backward)]


@given(ANSWERS)
def test_a_judge_that_likes_a_place_never_decides(place):
    assert verdict(place, place) in (TIE, ABSTAIN)


@given(ANSWERS, ANSWERS)
def test_an_unread_answer_never_becomes_a_verdict(forward, backward):
    assert (verdict(forward, backward) == ABSTAIN) == (forward is None or backward is None)


@given(ANSWERS, ANSWERS)
def test_only_agreement_decides(forward, backward):
    decided = verdict(forward, backward) in (WIN, LOSS)
    assert decided == (forward in (1, 2) and backward == SWAPPED[forward])
