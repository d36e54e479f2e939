"""Bradley-Terry: values from the literature and by hand, and rankings that do not exist."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from omnialign.errors import FailedPrecondition, InvalidArgument
from services.evaluation.pairwise import Games, probability, strengths
from services.evaluation.samples import key_of

# A. Agresti, Categorical Data Analysis (2002), table 10.10: wins in the American League of 1987, and his estimates.
BASEBALL = {
    "Milwaukee": ([0, 7, 9, 7, 7, 9, 11], 1.581),
    "Detroit": ([6, 0, 7, 5, 11, 9, 9], 1.436),
    "Toronto": ([4, 6, 0, 7, 7, 8, 12], 1.294),
    "New York": ([6, 8, 6, 0, 6, 7, 10], 1.248),
    "Boston": ([6, 2, 6, 7, 0, 7, 12], 1.108),
    "Cleveland": ([4, 4, 5, 6, 6, 0, 6], 0.684),
    "Baltimore": ([2, 4, 1, 3, 1, 7, 0], 0.0),
}


def games(first, second, *points, item=""):
    items = np.array([key_of(f"{item}{first}-{second}-{i}") for i in range(len(points))], dtype=np.uint64)
    return [Games(first, second, items, np.array(points, dtype=np.float64))]


def test_the_strengths_of_baseball_teams_are_those_in_the_literature():
    teams = list(BASEBALL)
    played = [
        game
        for name, (wins, _) in BASEBALL.items()
        for other, count in zip(teams, wins, strict=True)
        for game in games(name, other, *[1.0] * count)
    ]
    found = strengths(played)
    assert list(found) == teams
    for name, (_, expected) in BASEBALL.items():
        assert found[name].value - found["Baltimore"].value == pytest.approx(expected, abs=0.0006)
    assert math.fsum(one.value for one in found.values()) == pytest.approx(0, abs=1e-9)


def test_two_models_have_the_log_odds_of_their_points_with_the_interval_of_a_share():
    found = strengths(games("a", "b", *[1] * 29, *[0.5] * 2, *[0] * 9))
    difference = found["a"].value - found["b"].value
    assert difference == pytest.approx(math.log(30 / 10))
    assert probability(found["a"].value, found["b"].value) == pytest.approx(0.75)
    squares = 29 * 0.25**2 + 2 * 0.25**2 + 9 * 0.75**2
    error = math.sqrt(squares) / (40 * 0.75 * 0.25) / 2  # of half the difference
    low, high = found["a"].interval
    assert high - low == pytest.approx(2 * 1.96 * error, rel=1e-3)


def test_models_compared_on_the_same_items_are_as_sure_as_their_items_and_not_as_their_games():
    points = [1, 1, 0, 1, 0, 1, 1, 0]
    apart = strengths([g for n in range(5) for g in games("a", "b", *points, item=f"{n}-")])
    shared = strengths([g for _ in range(5) for g in games("a", "b", *points)])
    once = strengths(games("a", "b", *points))
    assert shared["a"].interval == pytest.approx(once["a"].interval)
    assert shared["a"].interval[1] - shared["a"].interval[0] > 2 * (apart["a"].interval[1] - apart["a"].interval[0])


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(-2, 2), min_size=3, max_size=5))
def test_strengths_are_found_again_from_the_points_that_they_predict(values):
    names = [f"m{i}" for i in range(len(values))]
    pairs = [(i, j) for i in range(len(values)) for j in range(i)]
    found = strengths([g for i, j in pairs for g in games(names[i], names[j], probability(values[i], values[j]))])
    centred = np.array(values) - np.mean(values)
    assert [found[name].value for name in names] == pytest.approx(list(centred), abs=1e-4)


def test_groups_that_were_never_compared_are_named():
    with pytest.raises(FailedPrecondition, match=r"never compared with each other: a, b \| c, d") as refused:
        strengths(games("a", "b", 1, 0) + games("c", "d", 1, 0))
    assert refused.value.reason == "COMPARISONS_DISCONNECTED"


def test_a_model_that_never_lost_a_point_has_no_finite_strength():
    with pytest.raises(FailedPrecondition, match="No other model took a point from a, so") as refused:
        strengths(games("a", "b", 1, 1) + games("a", "c", 1) + games("b", "c", 1, 0))
    assert refused.value.reason == "STRENGTHS_UNBOUNDED"


def test_what_is_no_game_is_refused():
    with pytest.raises(InvalidArgument):
        strengths(games("a", "a", 1))
    with pytest.raises(InvalidArgument):
        strengths(games("a", "b", 2))
    with pytest.raises(FailedPrecondition):
        strengths([])
