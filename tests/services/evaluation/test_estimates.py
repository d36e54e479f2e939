"""Means over what was judged, their intervals, and two models on the same items."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from omnialign.errors import FailedPrecondition, InvalidArgument
from omnialign.modeling.benchmark_items import CATEGORIES
from services.evaluation.composites import amu
from services.evaluation.estimates import FLIPS, compare, estimate, only
from services.evaluation.samples import Counts, Outcome, Sample, check_judged

SCORES = st.lists(st.integers(1, 10), min_size=2, max_size=30)


def sample(scores):
    return Sample(Outcome(f"item-{i}", score) for i, score in enumerate(scores))


def test_what_was_not_judged_is_counted_and_is_in_no_mean():
    found = Sample([Outcome("a", 4), Outcome("b"), Outcome("c", failed=True), Outcome("d", 8), Outcome("e")])
    assert found.counts == Counts(judged=2, abstained=2, failed=1)
    assert found.mean == 6


def test_a_part_without_a_score_has_no_value_and_ends_with_a_clear_error():
    parts = {"perception": sample([3, 4]), "safety": Sample([Outcome("a"), Outcome("b"), Outcome("c", failed=True)])}
    assert parts["safety"].mean is None
    assert estimate(parts, lambda means: sum(means.values()), seed=0).value is None
    with pytest.raises(FailedPrecondition, match="safety: 2 abstained, 1 failed") as refused:
        check_judged(parts)
    assert refused.value.reason == "NOTHING_JUDGED"
    assert refused.value.metadata == {"parts": "safety"}


@pytest.mark.parametrize("outcome", [Outcome("a", math.nan), Outcome("a", math.inf), Outcome("a", 3.0, failed=True)])
def test_what_is_no_score_is_refused(outcome):
    with pytest.raises(InvalidArgument, match="The score of a"):
        Sample([outcome])


def test_questions_weigh_alike_and_not_items():
    found = Sample([Outcome("clip-1", 10), Outcome("clip-1", 10), Outcome("clip-1", 10), Outcome("clip-2", 0)])
    assert found.mean == 7.5


def test_the_questions_of_one_medium_are_resampled_together():
    """Ten clips with ten questions each, all right or all wrong, tell no more than ten scores."""
    clips = Sample(Outcome(f"clip-{i}", 10 * (i % 2)) for i in range(10) for _ in range(10))
    scores = Sample(Outcome(f"clip-{i}", 10 * (i % 2)) for i in range(10))
    assert estimate({"a": clips}, only, seed=1) == estimate({"a": scores}, only, seed=1)


def test_the_interval_of_a_share_is_that_of_the_normal_approximation():
    found = estimate({"a": sample([1] * 120 + [0] * 280)}, only, seed=3)
    half = 1.96 * math.sqrt(0.3 * 0.7 / 400)
    assert found.value == pytest.approx(0.3)
    assert found.interval == pytest.approx((0.3 - half, 0.3 + half), abs=0.006)


def test_categories_are_resampled_each_for_itself():
    """Four categories without any spread of their own have none together, however far apart they are."""
    parts = {name: sample([score] * 20) for name, score in zip(CATEGORIES, (1, 4, 7, 10), strict=True)}
    found = estimate(parts, amu, seed=0)
    assert found.value == 5.5
    assert found.interval == (5.5, 5.5)


@settings(max_examples=30, deadline=None)
@given(SCORES, st.integers(0, 5))
def test_an_interval_is_within_the_scores_around_the_mean_and_the_same_each_time(scores, seed):
    found = estimate({"a": sample(scores)}, only, seed=seed)
    assert min(scores) - 1e-9 <= found.interval[0] <= found.interval[1] <= max(scores) + 1e-9
    assert found == estimate({"a": sample(reversed(scores))}, only, seed=seed)


def test_one_item_has_no_interval():
    assert estimate({"a": sample([7])}, only, seed=0).interval is None
    assert compare({"a": sample([7])}, {"a": sample([9])}, only, seed=0).p_value is None


def test_a_small_difference_on_the_same_items_shows_where_two_intervals_would_overlap():
    base = [1, 2, 3, 4, 5, 6, 7, 8, 9] * 6
    better = [score + (i % 2) for i, score in enumerate(base)]
    found = compare({"a": sample(base)}, {"a": sample(better)}, only, seed=0)
    apart = [estimate({"a": sample(scores)}, only, seed=0).interval for scores in (base, better)]
    assert apart[0][1] > apart[1][0]
    assert found.difference == pytest.approx(0.5)
    assert 0.3 < found.interval[0] < found.interval[1] < 0.7
    assert found.p_value == 1 / (1 + FLIPS)


def test_the_p_value_of_five_differences_of_one_sign_is_two_in_thirty_two():
    found = compare({"a": sample([1, 2, 3, 4, 5])}, {"a": sample([2, 4, 4, 7, 9])}, only, seed=0)
    assert found.p_value == pytest.approx(2 / 32, abs=0.008)


def test_items_that_one_model_has_no_score_for_are_left_out_of_both_and_counted():
    first = Sample([Outcome("a", 2), Outcome("b", 3), Outcome("c", 10), Outcome("d", 10)])
    second = Sample([Outcome("a", 4), Outcome("b", 5), Outcome("c"), Outcome("d", failed=True), Outcome("e", 1)])
    found = compare({"x": first}, {"x": second}, only, seed=0)
    assert (found.difference, found.paired, found.unpaired) == (2, 2, 3)


def test_models_without_a_common_item_cannot_be_compared():
    found = compare({"x": sample([1, 2])}, {"x": Sample([Outcome("z", 3)])}, only, seed=0)
    assert (found.difference, found.interval, found.p_value, found.paired) == (None, None, None, 0)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 10), st.integers(1, 10)), min_size=2, max_size=20))
def test_swapping_the_models_turns_the_difference_around_and_keeps_the_p_value(pairs):
    first, second = ({"a": sample(scores)} for scores in zip(*pairs, strict=True))
    there, back = compare(first, second, only, seed=0), compare(second, first, only, seed=0)
    assert there.difference == pytest.approx(-back.difference)
    assert there.p_value == pytest.approx(back.p_value, abs=0.04)
