"""Means over what was judged, their intervals, and two models on the same items."""

import math
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from omnialign import statistics
from omnialign.errors import InvalidArgument
from omnialign.modeling.benchmark_items import CATEGORIES
from services.evaluation.composites import amu
from services.evaluation.estimates import FLIPS, compare, estimate, only
from services.evaluation.samples import Counts, Sample

SCORES = st.lists(st.integers(1, 10), min_size=2, max_size=30)


def sample(scores):
    return sample_of({f"item-{i}": [score] for i, score in enumerate(scores)})


def sample_of(items, *, failed=0):
    """The sample of items with these scores; the judge abstained on those without."""
    found = Sample()
    for item, scores in items.items():
        found.add(item, scores, abstained=not scores)
    found.failed = failed
    return found


def test_what_was_not_judged_is_counted_and_is_in_no_mean():
    found = sample_of({"a": [4], "b": [], "d": [8], "e": []}, failed=1)
    assert found.counts == Counts(judged=2, abstained=2, failed=1)
    assert found.mean == 6


def test_a_part_without_a_score_has_no_value():
    parts = {"perception": sample([3, 4]), "safety": sample_of({"a": [], "b": []}, failed=1)}
    assert parts["safety"].mean is None
    assert estimate(parts, lambda means: sum(means.values()), seed=0).value is None


@pytest.mark.parametrize("score", [math.nan, math.inf])
def test_what_is_no_score_is_refused(score):
    with pytest.raises(InvalidArgument, match="The score of a"):
        Sample().add("a", [1.0, score])


def test_an_item_with_a_score_takes_no_more_than_its_numbers():
    found, count = Sample(), 20_000
    tracemalloc.start()
    for number in range(count):
        found.add(f"item-{number}", [float(number)])
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(found) == count
    assert held < 30 * count


def test_questions_weigh_alike_and_not_items():
    assert sample_of({"clip-1": [10, 10, 10], "clip-2": [0]}).mean == 7.5


def test_the_questions_of_one_medium_are_resampled_together():
    """Ten clips with ten questions each, all right or all wrong, tell no more than ten scores."""
    clips = sample_of({f"clip-{i}": [10 * (i % 2)] * 10 for i in range(10)})
    scores = sample_of({f"clip-{i}": [10 * (i % 2)] for i in range(10)})
    assert estimate({"a": clips}, only, seed=1) == estimate({"a": scores}, only, seed=1)


def test_the_interval_of_a_share_is_that_of_the_normal_approximation():
    found = estimate({"a": sample([1] * 120 + [0] * 280)}, only, seed=3)
    half = 1.96 * math.sqrt(0.3 * 0.7 / 400)
    assert found.value == pytest.approx(0.3)
    assert found.interval == pytest.approx((0.3 - half, 0.3 + half), abs=0.006)


def test_scores_that_all_differ_are_resampled_block_by_block_to_the_same(monkeypatch):
    first, second = sample([math.sqrt(i) for i in range(300)]), sample([math.sqrt(i + i % 7) for i in range(300)])
    whole = estimate({"a": first}, only, seed=1), compare({"a": first}, {"a": second}, only, seed=1)
    first.resampled.clear()
    monkeypatch.setattr(statistics, "BLOCK", 7 * 300)
    in_blocks = estimate({"a": first}, only, seed=1), compare({"a": first}, {"a": second}, only, seed=1)
    assert in_blocks[0].interval == pytest.approx(whole[0].interval, rel=1e-12)
    assert in_blocks[1].interval == pytest.approx(whole[1].interval, rel=1e-12)
    assert in_blocks[1].p_value == whole[1].p_value


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
    first = sample_of({"a": [2], "b": [3], "c": [10], "d": [10]})
    second = sample_of({"e": [1], "b": [5], "c": [], "a": [4]}, failed=1)
    found = compare({"x": first}, {"x": second}, only, seed=0)
    assert (found.difference, found.paired, found.unpaired) == (2, 2, 3)


def test_models_without_a_common_item_cannot_be_compared():
    found = compare({"x": sample([1, 2])}, {"x": sample_of({"z": [3]})}, only, seed=0)
    assert (found.difference, found.interval, found.p_value, found.paired) == (None, None, None, 0)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 10), st.integers(1, 10)), min_size=2, max_size=20))
def test_swapping_the_models_turns_the_difference_around_and_keeps_the_p_value(pairs):
    first, second = ({"a": sample(scores)} for scores in zip(*pairs, strict=True))
    there, back = compare(first, second, only, seed=0), compare(second, first, only, seed=0)
    assert there.difference == pytest.approx(-back.difference)
    assert there.p_value == pytest.approx(back.p_value, abs=0.04)
