from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from omnialign.v1 import record_pb2
from services.alignment.report import statistics
from services.alignment.report.tallies import Tallies, is_held_out, marks

WIN, TIE, LOSS, ABSTAIN = (
    record_pb2.VERDICT_WIN,
    record_pb2.VERDICT_TIE,
    record_pb2.VERDICT_LOSS,
    record_pb2.VERDICT_ABSTAIN,
)


def tallied(records: list[record_pb2.Record]) -> Tallies:
    tallies = Tallies()
    for record in records:
        tallies.add(record)
    return tallies


def evaluate(records: list[record_pb2.Record], *, seed: int = 0) -> dict[str, Any]:
    return statistics.evaluate(tallied(records), seed=seed)


def made(
    number: int,
    *,
    subtask: str = "t2i",
    correct: tuple[bool, bool] | None = None,
    verdict: int = 0,
    held_out: bool = False,
    scores: tuple[int, int] | None = None,
) -> record_pb2.Record:
    record = record_pb2.Record(id=f"{subtask}-{number}", subtask=subtask)
    for side in (0, 1):
        response = record.responses.add()
        if scores is not None:
            response.feedback.scores.add(dimension="prompt_following", score=scores[side])
    if correct is not None:
        record.labels["correct_base"], record.labels["correct_aligned"] = (str(mark).lower() for mark in correct)
    if held_out:
        record.labels["held_out"] = "true"
    record.comparison.verdict = verdict  # type: ignore[assignment]
    return record


def test_shares_of_correct_answers_are_those_counted_by_hand():
    outcomes = [(False, True)] * 5 + [(True, True)] * 2 + [(True, False)] + [(False, False)] * 2
    numbers = evaluate([made(i, correct=outcome) for i, outcome in enumerate(outcomes)])["subtasks"]["t2i"]
    assert numbers["base"] == pytest.approx(0.3)
    assert numbers["aligned"] == pytest.approx(0.7)
    assert numbers["gain"] == pytest.approx(0.4)
    assert numbers["prompts"] == numbers["checked"] == 10


def test_the_interval_of_a_share_is_close_to_its_known_width():
    records = [made(i, correct=(i % 2 == 0, True)) for i in range(400)]
    low, high = evaluate(records)["subtasks"]["t2i"]["base_interval"]
    assert low == pytest.approx(0.5 - 1.96 * 0.025, abs=0.006)  # the normal approximation: sqrt(0.25 / 400) = 0.025
    assert high == pytest.approx(0.5 + 1.96 * 0.025, abs=0.006)


def test_the_gain_is_paired_by_prompt():
    always_both = [made(i, correct=(i % 2 == 0, i % 2 == 0)) for i in range(50)]
    assert evaluate(always_both)["subtasks"]["t2i"]["gain_interval"] == [0, 0]


def test_the_mean_weighs_each_subtask_alike():
    records = [made(i, correct=(False, True)) for i in range(9)]
    records.append(made(0, subtask="t2a", correct=(True, True)))
    mean = evaluate(records)["mean"]
    assert mean["base"] == pytest.approx(0.5)
    assert mean["prompts"] == 10


def test_win_rate_counts_a_tie_as_half_and_leaves_abstentions_out():
    verdicts = [WIN] * 5 + [TIE] * 2 + [LOSS] + [ABSTAIN] * 2
    numbers = evaluate([made(i, verdict=verdict) for i, verdict in enumerate(verdicts)])["subtasks"]["t2i"]
    assert numbers["win_rate"] == pytest.approx(6 / 8)
    assert numbers["judge"] == pytest.approx({"win": 0.5, "tie": 0.2, "loss": 0.1, "abstain": 0.2})
    assert numbers["compared"] == 10


def test_a_judge_that_always_abstains_gives_no_win_rate():
    numbers = evaluate([made(i, verdict=ABSTAIN) for i in range(3)])["subtasks"]["t2i"]
    assert numbers["win_rate"] is None
    assert numbers["win_rate_interval"] is None
    assert numbers["judge"]["abstain"] == 1


def test_without_a_checker_nothing_is_claimed_to_be_correct():
    numbers = evaluate([made(i, verdict=WIN) for i in range(3)])["mean"]
    assert numbers["base"] is None
    assert numbers["gain_interval"] is None
    assert numbers["checked"] == 0


def test_seen_and_held_out_prompts_are_told_apart():
    records = [made(i, correct=(True, True)) for i in range(4)]
    records += [made(i, correct=(False, i < 6), held_out=True) for i in range(4, 8)]
    numbers = evaluate(records)["subtasks"]["t2i"]
    assert (numbers["seen"]["base"], numbers["seen"]["aligned"]) == (1, 1)
    assert (numbers["held_out"]["base"], numbers["held_out"]["aligned"]) == (0, 0.5)
    assert numbers["held_out"]["prompts"] == 4


def test_mean_scores_per_dimension():
    records = [made(0, scores=(1, 3)), made(1, scores=(2, 3)), made(2)]
    dimension = evaluate(records)["mean"]["dimensions"]["prompt_following"]
    assert dimension["base"] == pytest.approx(1.5)
    assert dimension["aligned"] == pytest.approx(3)


def test_records_without_two_answers_and_empty_tables_are_harmless():
    assert evaluate([record_pb2.Record(id="a", subtask="t2t")])["subtasks"] == {}
    assert evaluate([])["mean"]["prompts"] == 0


def test_the_same_seed_gives_the_same_numbers_and_other_subtasks_do_not_disturb_them():
    pictures = [made(i, correct=(i % 3 == 0, i % 4 != 0), verdict=WIN) for i in range(30)]
    sounds = [made(i, subtask="t2a", correct=(False, True)) for i in range(5)]
    alone, together = evaluate(pictures, seed=7), evaluate([*sounds, *pictures], seed=7)
    assert alone["subtasks"]["t2i"] == together["subtasks"]["t2i"]
    assert evaluate(pictures, seed=8)["subtasks"] != alone["subtasks"]


def test_seeds_of_sixty_four_bits_are_taken():
    assert evaluate([made(0, correct=(True, True))], seed=2**64 - 1)["mean"]["base"] == 1


def test_marks_and_held_out_read_the_labels():
    assert marks(made(0, correct=(True, False))) == (True, False)
    assert marks(made(0)) is None
    assert is_held_out(made(0, held_out=True))
    assert not is_held_out(made(0))


@settings(max_examples=40)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["t2i", "t2a", "ti2t"]),
            st.none() | st.tuples(st.booleans(), st.booleans()),
            st.sampled_from([0, WIN, TIE, LOSS, ABSTAIN]),
            st.booleans(),
        ),
        max_size=25,
    ),
    st.integers(0, 2**64 - 1),
)
def test_every_share_is_within_its_interval_and_every_interval_within_bounds(outcomes, seed):
    records = [
        made(i, subtask=subtask, correct=correct, verdict=verdict, held_out=held)
        for i, (subtask, correct, verdict, held) in enumerate(outcomes)
    ]
    report = evaluate(records, seed=seed)
    for numbers in (*report["subtasks"].values(), report["mean"]):
        for name, low in (("base", 0), ("aligned", 0), ("gain", -1), ("win_rate", 0)):
            assert (numbers[name] is None) == (numbers[f"{name}_interval"] is None)
            if numbers[name] is not None:
                lower, upper = numbers[f"{name}_interval"]
                assert low <= lower <= upper <= 1 + 1e-9
                assert low <= numbers[name] <= 1 + 1e-9
        assert numbers["prompts"] == numbers["seen"]["prompts"] + numbers["held_out"]["prompts"]
