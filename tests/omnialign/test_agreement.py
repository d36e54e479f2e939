"""Krippendorff's alpha against values from the literature and by hand."""

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omnialign.agreement import Level, krippendorff_alpha
from omnialign.errors import InvalidArgument

_ = None
# K. Krippendorff, "Computing Krippendorff's Alpha-Reliability" (2011), sections C to E: four observers, twelve units.
FOUR = [
    [1, 2, 3, 3, 2, 1, 4, 1, 2, _, _, _],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, _, 3],
    [_, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, _],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, _],
]
TWO = [[0, 1, 0, 0, 0, 0, 0, 0, 1, 0], [1, 1, 1, 0, 0, 1, 0, 0, 0, 0]]
RATINGS = st.lists(st.lists(st.sampled_from([1, 2, 3, None]), min_size=6, max_size=6), min_size=2, max_size=4)


@pytest.mark.parametrize(("level", "expected"), [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)])
def test_four_observers_with_missing_ratings(level, expected):
    assert krippendorff_alpha(FOUR, Level(level)) == pytest.approx(expected, abs=0.0006)


def test_two_observers_of_two_values():
    assert krippendorff_alpha(TWO, Level.NOMINAL) == pytest.approx(0.095, abs=0.0006)


@pytest.mark.parametrize("level", Level)
def test_judges_who_say_the_same_agree_fully(level):
    assert krippendorff_alpha([[1, 2, 3, 3], [1, 2, 3, 3], [1, _, 3, 3]], level) == pytest.approx(1)


@pytest.mark.parametrize("ratings", [[], [[1, 2, 3]], [[1, _], [_, 2]], [[3, 3, 3], [3, 3, 3]]])
def test_what_cannot_tell_has_no_alpha(ratings):
    assert krippendorff_alpha(ratings, Level.ORDINAL) is None


def test_memory_does_not_grow_with_the_square_of_the_ratings_that_differ():
    ratings = [[float(i) for i in range(3000)], [i + 0.25 for i in range(3000)]]
    tracemalloc.start()
    alpha = krippendorff_alpha(ratings, Level.INTERVAL)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert alpha == pytest.approx(1, abs=1e-6)
    assert most < 3000 * 3000


def test_every_judge_has_a_place_for_every_item():
    with pytest.raises(InvalidArgument):
        krippendorff_alpha([[1, 2], [1]], Level.NOMINAL)


@given(RATINGS, st.sampled_from(Level))
def test_the_order_of_judges_and_of_items_does_not_matter(ratings, level):
    there = krippendorff_alpha(ratings, level)
    back = krippendorff_alpha([row[::-1] for row in reversed(ratings)], level)
    assert there == back or there == pytest.approx(back)


@given(RATINGS)
def test_an_interval_scale_has_no_unit_and_an_ordinal_one_no_distances(ratings):
    for level, change in ((Level.INTERVAL, lambda x: 5 - 2 * x), (Level.ORDINAL, lambda x: x**3)):
        changed = [[None if one is None else change(one) for one in row] for row in ratings]
        there, back = krippendorff_alpha(ratings, level), krippendorff_alpha(changed, level)
        assert there == back or there == pytest.approx(back)
