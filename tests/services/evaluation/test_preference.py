"""A judge's accuracy on annotated pairs: flips, abstentions and calibration apart."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omnialign.errors import InvalidArgument
from services.evaluation.preference import Judged, by_modality
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
    # At 0.95 two of three are right, and at 0.55 none of one: 3/4 |2/3 - 0.95| + 1/4 |0 - 0.55|.
    sure = [pairs((1, 2), preferred=preferred, probability=0.95)[0] for preferred in (1, 1, 2)]
    found = by_modality([*sure, *pairs((1, 2), preferred=2, probability=0.55)], seed=0)[""].calibration
    assert found.error == pytest.approx(3 / 4 * abs(2 / 3 - 0.95) + 1 / 4 * 0.55)
    assert [(one.count, one.observed) for one in found.curve] == [
        (3, pytest.approx(1 / 3)),
        (1, 1),
        (1, 0),
        (3, pytest.approx(2 / 3)),
    ]


def test_a_judge_of_words_alone_has_no_calibration():
    assert by_modality(pairs((1, 2)), seed=0)[""].calibration is None


@given(
    st.lists(
        st.tuples(st.sampled_from([0.03, 0.27, 0.48, 0.52, 0.85, 0.97]), st.sampled_from([1, 2])),
        min_size=1,
        max_size=10,
    )
)
def test_calibration_does_not_depend_on_which_response_is_the_first(judged):
    there = [pairs((1, 2), preferred=preferred, probability=p)[0] for p, preferred in judged]
    back = [pairs((1, 2), preferred=3 - preferred, probability=1 - p)[0] for p, preferred in judged]
    errors = [by_modality(group, seed=0)[""].calibration.error for group in (there, back)]
    assert errors[0] == pytest.approx(errors[1])


def test_what_is_no_judgement_is_refused():
    for wrong in ({"forward": 3}, {"preferred": 0}, {"probability": 1.2}):
        with pytest.raises(InvalidArgument):
            by_modality([Judged(**{"item": "a", "modality": "t2t", "preferred": 1} | wrong)], seed=0)
