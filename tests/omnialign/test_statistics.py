"""Calibration of probabilities that one of two answers is the better one, and rank correlation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from omnialign.statistics import calibration_error, calibration_of_pairs, rank_correlation


def test_the_calibration_error_by_hand():
    # At 0.95 two of three are right, and at 0.55 none of one: 3/4 |2/3 - 0.95| + 1/4 |0 - 0.55|.
    curve = calibration_of_pairs(np.array([0.95, 0.95, 0.95, 0.55]), np.array([1.0, 1.0, 0.0, 0.0]))
    assert calibration_error(curve) == pytest.approx(3 / 4 * abs(2 / 3 - 0.95) + 1 / 4 * 0.55)
    assert [(one.count, one.observed) for one in curve] == [
        (3, pytest.approx(1 / 3)),
        (1, 1),
        (1, 0),
        (3, pytest.approx(2 / 3)),
    ]


@given(
    st.lists(
        st.tuples(st.sampled_from([0.03, 0.27, 0.48, 0.52, 0.85, 0.97]), st.sampled_from([0.0, 1.0])),
        min_size=1,
        max_size=10,
    )
)
def test_calibration_does_not_depend_on_which_answer_is_the_first(judged):
    probabilities, preferred = np.array(judged).T
    there = calibration_error(calibration_of_pairs(probabilities, preferred))
    back = calibration_error(calibration_of_pairs(1 - probabilities, 1 - preferred))
    assert there == pytest.approx(back)


def test_rank_correlation_shares_ranks_among_ties():
    assert rank_correlation([1, 2, 3, 4], [10, 20, 40, 30]) == pytest.approx(0.8)
    assert rank_correlation([1, 2, 2, 3], [1, 2, 3, 4]) == pytest.approx(4.5 / (4.5 * 5) ** 0.5)
    assert rank_correlation([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)
    assert rank_correlation([1, 1, 1], [3, 2, 1]) is None
