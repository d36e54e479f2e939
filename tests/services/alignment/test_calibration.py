"""The calibration of the gate, on any margins."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.alignment.calibration import (
    calibrate,
    confidence,
    find_threshold,
    fit_slope,
    probability,
    sigmoid,
)

MARGINS = st.lists(st.floats(-1e6, 1e6, allow_nan=False), max_size=120)
PRECISION = st.sampled_from([0.6, 0.8, 0.95, 1.0])


def judge(pairs=400, *, slope=1.5, seed=0):
    """Margins of a judge that is calibrated with this slope: each is right with probability σ(slope · |margin|)."""
    rng = np.random.default_rng(seed)
    size = np.abs(rng.normal(size=pairs)) * 2
    return np.where(rng.random(pairs) < sigmoid(slope * size), size, -size)


@settings(max_examples=200, deadline=None)
@given(MARGINS, PRECISION)
def test_any_finite_margins_give_finite_numbers(margins, precision):
    found = calibrate(margins, precision=precision)
    assert 0 <= found.slope < math.inf
    assert 0 <= found.accuracy <= 1
    assert found.threshold is None or 0.5 < found.threshold <= 1
    assert 0 <= found.held_out.share <= 1
    assert (found.held_out.precision is None) == (found.held_out.share == 0)
    assert sum(b.count for b in found.reliability) == 2 * len(margins)


@settings(max_examples=200, deadline=None)
@given(MARGINS, st.floats(-1e6, 1e6), st.floats(-1e6, 1e6))
def test_a_larger_margin_never_has_a_smaller_probability(margins, one, other):
    slope = fit_slope(np.array(margins))
    low, high = sorted([one, other])
    assert 0 <= probability(slope, low) <= probability(slope, high) <= 1


@settings(max_examples=200, deadline=None)
@given(MARGINS, st.floats(-1e3, 1e3))
def test_exchanging_the_responses_exchanges_the_probabilities(margins, margin):
    slope = fit_slope(np.array(margins))
    assert probability(slope, margin) + probability(slope, -margin) == pytest.approx(1)


@settings(max_examples=300, deadline=None)
@given(MARGINS, PRECISION)
def test_the_pairs_that_pass_are_right_as_often_as_demanded_and_no_lower_threshold_does_it(margins, precision):
    found = np.array(margins)
    probabilities = sigmoid(fit_slope(found) * found)
    limit = find_threshold(probabilities, precision=precision)
    sure, right = confidence(probabilities), probabilities > 0.5
    for level in np.unique(sure[sure > 0.5]):
        if limit is None or level < limit:
            assert right[sure >= level].mean() < precision
    if limit is not None:
        assert right[sure >= limit].mean() >= precision


def test_the_slope_of_a_calibrated_judge_is_found():
    assert fit_slope(judge(20_000, slope=1.5)) == pytest.approx(1.5, rel=0.1)


def test_the_unit_of_the_margins_does_not_matter():
    margins = judge()
    one, other = (calibrate(scale * margins, precision=0.9) for scale in (1.0, 1e-3))
    assert other.slope == pytest.approx(1e3 * one.slope, rel=1e-6)
    assert other.threshold == pytest.approx(one.threshold)
    assert other.held_out == one.held_out


def test_the_precision_holds_on_pairs_that_were_not_looked_at():
    found = calibrate(judge(2000), precision=0.9)
    fresh = judge(20_000, seed=1)
    passes = confidence(sigmoid(found.slope * fresh)) >= found.threshold
    assert (fresh > 0)[passes].mean() == pytest.approx(0.9, abs=0.02)
    assert found.held_out.precision == pytest.approx(0.9, abs=0.02)
    assert found.held_out.share == pytest.approx(passes.mean(), abs=0.05)
    assert all(b.predicted == pytest.approx(b.observed, abs=0.1) for b in found.reliability if b.count > 100)


def test_a_higher_precision_lets_fewer_pairs_pass():
    found = [calibrate(judge(2000), precision=precision) for precision in (0.8, 0.9, 0.97)]
    assert [f.threshold for f in found] == sorted(f.threshold for f in found)
    assert found[0].held_out.share > found[1].held_out.share > found[2].held_out.share > 0


@pytest.mark.parametrize("margins", [[], [0.0] * 60, [-1.0] * 60, [1.0, -1.0] * 30])
def test_a_judge_that_knows_nothing_lets_nothing_pass(margins):
    found = calibrate(margins, precision=0.95)
    assert found.slope == 0
    assert found.threshold is None
    assert (found.held_out.share, found.held_out.precision) == (0, None)


def test_a_judge_that_is_always_right_lets_all_pass():
    found = calibrate([2.0] * 60, precision=0.95)
    assert found.accuracy == 1
    assert found.held_out.share == 1
    assert probability(found.slope, 2.0) >= found.threshold
    assert probability(found.slope, 2.0) < 1  # sixty pairs prove nothing beyond doubt
