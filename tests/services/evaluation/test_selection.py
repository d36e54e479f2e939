"""Which modalities an answer has, and the votes for them."""

import pytest

from omnialign.combinations import check_shares, combination_of
from omnialign.content import content
from omnialign.errors import InvalidArgument
from omnialign.v1 import content_pb2
from services.evaluation.benchmarks.selection import selection_score

SHARES = {"t": 0.2, "i": 0.04, "ti": 0.4, "ta": 0.12, "tia": 0.24}


def medium(name):
    return content_pb2.Media(modality=content_pb2.Modality.Value(f"MODALITY_{name}"))


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        (["words"], "t"),
        ([medium("AUDIO"), "words", medium("IMAGE"), medium("IMAGE")], "tia"),
        ([" \n", medium("VIDEO")], "v"),
        ([" "], ""),
        ([], ""),
    ],
)
def test_the_combination_of_a_message(parts, expected):
    assert combination_of(content(*parts)) == expected


def test_all_three_modalities_score_a_third_of_their_votes():
    assert selection_score("tia", SHARES) == pytest.approx(0.08)
    assert selection_score("tia", SHARES, third=False) == 0.24
    assert selection_score("ti", SHARES) == 0.4


def test_nobody_voted_for_an_empty_answer_or_for_what_is_not_named():
    assert selection_score("", SHARES) == 0
    assert selection_score("a", SHARES) == 0


def test_a_video_is_what_voters_for_a_picture_asked_for_unless_they_could_name_both():
    assert selection_score("tv", SHARES) == 0.4
    assert selection_score("tav", SHARES) == selection_score("tiav", SHARES) == pytest.approx(0.08)
    assert selection_score("tv", {"ti": 0.7, "tv": 0.3}) == 0.3
    assert selection_score("tiav", {"ti": 0.4, "tv": 0.3, "tiav": 0.3}) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ({"t": 0.5, "ti": 0.4}, "add up to 0.9"),
        ({}, "add up to 0"),
        ({"t": 1.2, "ti": -0.2}, "the share of t is 1.2"),
        ({"t": float("nan")}, "the share of t is nan"),
        ({"it": 1.0}, "votes for 'it'"),
        ({"tx": 1.0}, "votes for 'tx'"),
        ({"": 1.0}, "votes for ''"),
    ],
)
def test_votes_that_are_not_shares_are_refused(shares, message):
    with pytest.raises(InvalidArgument, match=message) as refused:
        check_shares(shares)
    assert refused.value.reason == "SHARES_INVALID"
