"""What each method and target learns from a record."""

from collections import Counter
from pathlib import Path

import pytest

from omnialign.errors import FailedPrecondition
from omnialign.modeling.adapters import load_adapter
from omnialign.modeling.answers import Rating, read_feedback, read_judgement, read_rating
from omnialign.modeling.prompts import render_understanding
from omnialign.rubrics import rubric
from omnialign.v1 import content_pb2, record_pb2
from training.batches import PairCollator, SftCollator, sft_row
from training.examples import (
    Example,
    Tally,
    encode_sample,
    make_examples,
    require_batchable,
    require_examples,
    require_few_dropped,
)
from training.samples import Dropped, samples_of

PICTURE = content_pb2.Media(modality=content_pb2.MODALITY_IMAGE, mime_type="image/png", sha256="0" * 64)
SOUND = content_pb2.Media(modality=content_pb2.MODALITY_AUDIO, mime_type="audio/wav", sha256="1" * 64)


def of(record: record_pb2.Record, *, method: str = "sft", target: str = ""):
    return samples_of(record, media={}, method=method, target=target)


def test_response_learns_the_preferred_answer(record):
    assert of(record, target="response")[0].answers == (("hello",),)
    record.ClearField("preference")
    assert of(record, target="response")[0].answers == (("bye",),)


def test_feedback_learns_a_readable_critique_of_every_response(record):
    found = of(record, target="feedback")
    critiques = [read_feedback(sample.answers[0][0], rubric("t2t")).critique for sample in found]
    assert critiques == ["it is rude", "it is kind"]


def test_judgement_is_learnt_in_both_orders_with_words_in_the_order_shown(record):
    forward, backward = of(record, target="judgement")[:2]
    first, second = (read_judgement(sample.answers[0][0]) for sample in (forward, backward))
    assert (first.preferred, second.preferred) == (2, 1)
    assert first.reason.index("rude") < first.reason.index("kind")
    assert second.reason.index("kind") < second.reason.index("rude")
    shown = ["".join(str(p) for turn in sample.turns for p in turn.pieces) for sample in (forward, backward)]
    assert shown[0].index("bye") < shown[0].index("hello")
    assert shown[1].index("hello") < shown[1].index("bye")


def test_judgement_also_learns_the_scores_of_every_response(record):
    assert len(of(record, target="judgement")) == 4


def rate(record: record_pb2.Record, *, aspect: str, **fields) -> record_pb2.Record:
    """The record as an item with references, whose responses are rated."""
    record.subtask = "tia2t"  # of which there is no rubric
    del record.responses[0].feedback.scores[:], record.responses[1].feedback.scores[:]
    record.benchmark_item.category = "safety"
    record.benchmark_item.references.add(answer="Say hello.", key_terms={"audio": record_pb2.KeyTerms(terms=["hi"])})
    for response, score in zip(record.responses, (2, 9), strict=True):
        values = {"score": score, "rationale": "rude ##Rating: 1"} | fields
        response.assessments.add(aspect=aspect, **values)
        response.assessments.add(aspect="selection", score=0.5)
    return record


def test_understanding_learns_the_rating_of_every_response_as_the_service_asks_for_it(record):
    rate(record, aspect="understanding")
    found = of(record, target="understanding")
    assert [read_rating(sample.answers[0][0]) for sample in found] == [
        Rating(2, "rude Rating: 1"),
        Rating(9, "rude Rating: 1"),
    ]
    references = record.benchmark_item.references
    assert [sample.turns for sample in found] == [
        render_understanding(("greet me",), (words,), references, "safety").turns for words in ("bye", "hello")
    ]
    del record.benchmark_item.references[:]
    with pytest.raises(Dropped, match="NO_REFERENCES"):
        of(record, target="understanding")


def test_generation_learns_the_rating_in_the_modality_of_the_response(record):
    rate(record, aspect="instruction_following")
    (record.responses[1].content.parts.add()).media.CopyFrom(PICTURE)
    record.responses.add().CopyFrom(record.responses[1])
    record.responses[2].content.parts.add().media.CopyFrom(SOUND)
    dropped = Counter()
    media = {PICTURE.sha256: b"png", SOUND.sha256: b"wav"}
    found = samples_of(record, media=media, method="sft", target="generation", dropped=dropped)
    shown = [sample.turns[0].pieces[0].splitlines()[0] for sample in found]
    assert shown == ["##Modality: text", "##Modality: image"]
    assert dropped == {"MODALITIES_MIXED": 1}


def test_a_judge_learns_ratings_beside_comparisons(record):
    rate(record, aspect="understanding")
    assert len(of(record, target="judgement")) == 4
    record.ClearField("preference")
    assert of(record, target="judgement") == of(record, target="understanding")


@pytest.mark.parametrize(
    ("fields", "counted"),
    [
        ({"abstain_reason": "ANSWER_UNPARSABLE"}, {}),
        ({"rationale": " "}, {"NO_RATIONALE": 2}),
        ({"score": 7.5}, {"RATING_INVALID": 2}),
        ({"score": 0}, {"RATING_INVALID": 2}),
        ({"score": 11}, {"RATING_INVALID": 2}),
        ({"score": float("nan")}, {"RATING_INVALID": 2}),
    ],
)
def test_an_assessment_that_is_no_rating_teaches_nothing_and_is_counted(record, fields, counted):
    rate(record, aspect="understanding", **fields)
    dropped = Counter()
    with pytest.raises(Dropped, match="NO_ASSESSMENT"):
        samples_of(record, media={}, method="sft", target="understanding", dropped=dropped)
    assert dropped == counted


def test_dpo_follows_the_preference_or_the_gate_and_drops_a_pair_without_either(record):
    assert of(record, method="dpo")[0].answers == (("hello",), ("bye",))
    record.preference.preferred = 1
    assert of(record, method="dpo")[0].answers == (("bye",), ("hello",))
    record.ClearField("preference")
    record.comparison.verdict = record_pb2.VERDICT_WIN
    assert of(record, method="dpo")[0].answers == (("hello",), ("bye",))
    for verdict in (record_pb2.VERDICT_TIE, record_pb2.VERDICT_LOSS, record_pb2.VERDICT_UNSPECIFIED):
        record.comparison.verdict = verdict
        with pytest.raises(Dropped, match="NO_PREFERENCE"):
            of(record, method="dpo")


@pytest.mark.parametrize(
    ("method", "target"), [("dpo", ""), ("sft", "response"), ("sft", "feedback"), ("sft", "judgement")]
)
def test_a_record_without_responses_is_dropped_with_a_reason(record, method, target):
    del record.responses[:]
    with pytest.raises(Dropped):
        of(record, method=method, target=target)


def test_prompts_end_open_and_every_answer_ends_with_the_end_token_once(record, model_dir: Path):
    adapter = load_adapter(model_dir)
    for method, target in (("dpo", ""), ("sft", "response"), ("sft", "feedback"), ("sft", "judgement")):
        for sample in of(record, method=method, target=target):
            example = encode_sample(sample, adapter=adapter, max_length=10_000)
            assert adapter.end_id not in example.prompt
            for answer in example.answers:
                assert answer.count(adapter.end_id) == 1
                assert answer[-1] == adapter.end_id


def test_sft_loss_falls_on_exactly_the_answer():
    rows = [sft_row(Example([1, 2, 3], [[7, 9]])), sft_row(Example([1], [[8, 8, 8, 9]]))]
    batch = SftCollator(pad_id=0)(rows)
    assert batch["input_ids"].tolist() == [[1, 2, 3, 7, 9], [1, 8, 8, 8, 9]]
    assert batch["completion_mask"].tolist() == [[0, 0, 0, 1, 1], [0, 1, 1, 1, 1]]
    longer = SftCollator(pad_id=9)([sft_row(Example([1, 2, 3], [[7, 9]])), sft_row(Example([1], [[9]]))])
    # The end token is a target even where it is also what fills the row.
    assert longer["completion_mask"].tolist()[1] == [0, 1, 0, 0, 0]
    assert longer["attention_mask"].tolist()[1] == [1, 1, 0, 0, 0]


def test_dpo_masks_are_aligned_with_either_answer():
    row = {"prompt_ids": [1, 2], "chosen_ids": [5, 9], "rejected_ids": [6, 6, 6, 9]}
    batch = PairCollator(pad_id=0)([row, {**row, "prompt_ids": [1]}])
    for ids, mask, answer in zip(
        batch["input_ids"], batch["completion_mask"].bool(), ([5, 9], [5, 9], [6, 6, 6, 9], [6, 6, 6, 9]), strict=True
    ):
        assert ids[mask].tolist() == answer


def test_too_long_examples_are_dropped_and_counted_never_cut(record, model_dir: Path):
    tally = Tally()
    adapter = load_adapter(model_dir)
    found = list(make_examples([(record, {})], adapter=adapter, method="dpo", target="", max_length=5, tally=tally))
    assert (found, tally.dropped) == ([], Counter(TOO_LONG=1))
    with pytest.raises(FailedPrecondition) as caught:
        require_examples(0, dataset="d", dropped=tally.dropped)
    assert caught.value.reason == "NO_EXAMPLES"
    assert "TOO_LONG: 1" in caught.value.message


def test_a_run_that_loses_most_of_its_examples_to_faults_is_refused_and_records_that_teach_nothing_do_not_count():
    dropped = Counter(TOO_LONG=99, NO_FEEDBACK=1000)
    with pytest.raises(FailedPrecondition) as caught:
        require_few_dropped(1, dropped=dropped, max_fraction=0.0)
    assert caught.value.reason == "TOO_MANY_DROPPED"
    assert "99 of 100 examples are dropped (TOO_LONG: 99)" in caught.value.message
    require_few_dropped(1, dropped=dropped, max_fraction=1.0)
    require_few_dropped(99, dropped=dropped, max_fraction=0.0)


def test_videos_that_cannot_be_fed_together_are_refused_before_any_step():
    shapes = {(4, 3, 56, 56), (6, 3, 56, 56)}
    with pytest.raises(FailedPrecondition) as caught:
        require_batchable(shapes, rows_per_batch=2)
    assert caught.value.reason == "FEATURES_DIFFER"
    assert "micro_batch_size to 1" in caught.value.message
    require_batchable(shapes, rows_per_batch=1)
    require_batchable({(4, 3, 56, 56)}, rows_per_batch=8)
