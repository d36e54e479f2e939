"""A judge's accuracy on annotated pairs: flips, abstentions and calibration apart."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omnialign.errors import InvalidArgument
from services.evaluation.preference import Judged, by_modality, calibration
from services.evaluation.samples import Counts

PLACES = st.sampled_from([0, 1, 2])


def pairs(*answers, preferred=1, modality="ti2t", **more):
    return [Judged(f"{modality}-{i}", modality, preferred, *places, **more) for i, places in enumerate(answers)]


def test_a_pair_counts_by_both_orders():
    # Right twice, right for the other response, always the first place, equal, wrong twice, unreadable.
    found = by_modality(pairs((1, 2), (1, 2), (1, 1), (0, 0), (2, 1), (None, 2)), seed=0)[""]
    assert found.counts == Counts(judged=5, abstained=1)
    assert found.accuracy.value == pytest.approx((1 + 1 + 0.5 + 0.5 + 0) / 5)
    assert found.flip_rate == pytest.approx(1 / 5)
    assert found.abstain_rate == pytest.approx(1 / 6)


@pytest.mark.parametrize("places", [(1, 1), (2, 2), (0, 0)])
def test_a_judge_of_places_is_as_good_as_a_coin(places):
    found = by_modality(pairs(places, places, preferred=1) + pairs(places, preferred=2, modality="t2t"), seed=0)[""]
    assert found.accuracy.value == 0.5


def test_modalities_are_apart():
    found = by_modality(pairs((1, 2)) + pairs((2, 1), (2, 1), modality="ta2t"), seed=0)
    assert {name: one.accuracy.value for name, one in found.items()} == {"": pytest.approx(1 / 3), "ta2t": 0, "ti2t": 1}


def test_a_judge_that_abstains_on_everything_has_no_accuracy():
    found = by_modality(pairs((None, None), (1, None)) + pairs((1, 2), modality="t2a", failed=True), seed=0)
    assert found[""].accuracy.value is None
    assert found[""].flip_rate is None
    assert found[""].abstain_rate == 1
    assert found["t2a"].abstain_rate is None
    assert found["t2a"].counts == Counts(failed=1)


@given(st.lists(st.tuples(PLACES, PLACES), min_size=1, max_size=10))
def test_naming_the_responses_the_other_way_round_changes_nothing(answers):
    """Swapping the two responses swaps the orders, and which of them is preferred."""
    swapped = [(backward, forward) for forward, backward in answers]
    there, back = (by_modality(one, seed=0)[""] for one in (pairs(*answers), pairs(*swapped, preferred=2)))
    assert there.accuracy.value == back.accuracy.value
    assert there.flip_rate == back.flip_rate


def test_the_calibration_error_by_hand():
    # Three at 0.9 of which two are right, one at 0.55 that is wrong: 3/4 |2/3 - 0.9| + 1/4 |0 - 0.55|.
    found = calibration([0.9, 0.9, 0.92, 0.55], [1, 1, 0, 0])
    assert found.error == pytest.approx(3 / 4 * abs(2 / 3 - (0.9 + 0.9 + 0.92) / 3) + 1 / 4 * 0.55)
    assert [(one.lowest, one.count) for one in found.curve] == [(pytest.approx(0.55), 1), (pytest.approx(0.9), 3)]
    assert calibration([], []) is None


def test_confidence_is_that_in_the_response_that_the_judge_prefers():
    found = by_modality(pairs((2, 1), preferred=2, probability=0.2), seed=0)["ti2t"]
    (one,) = found.calibration.curve
    assert (one.confidence, one.accuracy) == (pytest.approx(0.8), 1)


def test_what_is_no_judgement_is_refused():
    for wrong in ({"forward": 3}, {"preferred": 0}, {"probability": 1.2}):
        with pytest.raises(InvalidArgument):
            by_modality([Judged(**{"item": "a", "modality": "t2t", "preferred": 1} | wrong)], seed=0)
