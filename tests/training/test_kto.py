"""KTO: loss and gradient against plain torch on rows without padding, and the faults of a published implementation."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from examples.tinyworld.pretrain import FOLDER
from omnialign.errors import FailedPrecondition
from omnialign.modeling.adapters import load_adapter
from omnialign.v1 import record_pb2
from tests.training.formulas import Taken, kto
from tests.training.in_process import (
    gradient,
    kept,
    log_probs,
    make_trainer,
    mismatched_answers,
    move_towards,
    step,
)
from tests.training.method_samples import encoded, samples_for, world_pairs
from tests.training.test_dpo import SUBTASKS
from tests.training.test_spec import GOOD, problems
from training.examples import Example
from training.media import BatchMedia
from training.methods.kto import KtoSettings
from training.samples import Dropped, Sample, samples_of
from training.trainers.kto import balanced
from training.tuning import load_model

BETA, WEIGHT = 0.7, 0.5


def labelled() -> list[Sample]:
    """Five answers: the good and the bad one of two prompts, and the good one of a third."""
    return samples_for("kto", world_pairs(*SUBTASKS))


@pytest.mark.slow
def test_loss_and_gradient_of_a_step_equal_those_by_hand(tmp_path: Path):
    """Published: a reference point of the last batch alone, and slices of prompts and answers that ran empty."""
    found = encoded(labelled(), base=FOLDER, folder=tmp_path)
    media = BatchMedia(load_adapter(FOLDER), tmp_path / "media")
    settings = {"beta": BETA, "sft_weight": WEIGHT, "max_length": 4096}
    trainer = make_trainer("kto", base=FOLDER, examples=found, folder=tmp_path, hyperparameters=settings)
    others = mismatched_answers(kept(found, tmp_path), max_length=4096, seed=0)
    move_towards(trainer.model, [log_probs(trainer.model, e, y, media) for e, y in zip(found, others, strict=True)])
    # Passes of unequal size, and the blank row.
    loss, learnt = step(trainer, [[0, 1, 2], [3, 4], [5]]), gradient(trainer.model)
    trainer.model.zero_grad()
    taken = Taken(trainer.model, load_model(FOLDER), found, media, BETA, WEIGHT)
    # Three of five are good: their weights balance at 4 : 3.
    wanted = kto(taken, others=others, desirable=1.0, undesirable=3 / (2 * 4 / 3))
    wanted.backward()
    assert loss == pytest.approx(float(wanted), rel=1e-5)
    assert float((learnt - gradient(trainer.model)).norm()) <= 1e-5 * float(learnt.norm())


@pytest.mark.slow
def test_good_answers_become_likelier_and_bad_ones_less_likely(tmp_path: Path):
    """Published: the sign of the bad answers' term made them likelier too."""
    found = encoded(labelled()[:2], base=FOLDER, folder=tmp_path)
    trainer = make_trainer("kto", base=FOLDER, examples=found, folder=tmp_path)
    media = BatchMedia(load_adapter(FOLDER), tmp_path / "media")
    for index in range(2):
        row = trainer.train_dataset[index]
        example = Example(row["prompt_ids"], [row["answer_ids"]])
        before = float(log_probs(trainer.model, example, row["answer_ids"], media).sum())
        weights = {name: value.clone() for name, value in trainer.model.state_dict().items()}
        step(trainer, [[index]])
        with torch.no_grad():
            for parameter in trainer.model.parameters():
                parameter.sub_(parameter.grad, alpha=1e-3 / float(gradient(trainer.model).norm()))
        after = float(log_probs(trainer.model, example, row["answer_ids"], media).sum())
        assert (after > before) == row["desirable"]
        trainer.model.load_state_dict(weights)


def test_every_prompt_gets_another_prompts_answer_once_and_the_same_each_time(tmp_path: Path):
    found = kept([Example([1, at // 2], [[7] * (at + 1)]) for at in range(10)], tmp_path)
    others = mismatched_answers(found, max_length=100, seed=3)
    assert others == mismatched_answers(found, max_length=100, seed=3)
    lengths = [len(other) for other in others]
    assert all(at // 2 != (length - 1) // 2 for at, length in enumerate(lengths))
    # The longest answer fits behind no prompt here but its own.
    assert max(len(other) for other in mismatched_answers(found, max_length=11, seed=3)) == 9
    assert mismatched_answers(found.select(np.arange(2)), max_length=100, seed=3) == [[], []]


@pytest.mark.parametrize(("good", "bad"), [(10, 10), (40, 10), (10, 40), (12, 10)])
def test_weights_balance_the_numbers_of_good_and_bad_answers_as_advised(good: int, bad: int):
    desirable, undesirable = balanced(KtoSettings(), good=good, bad=bad)
    assert 1 - 1e-9 <= desirable * good / (undesirable * bad) <= 4 / 3 + 1e-9
    assert min(desirable, undesirable) == 1
    assert balanced(KtoSettings(desirable_weight=2.0, undesirable_weight=3.0), good=good, bad=bad) == (2.0, 3.0)
    desirable, undesirable = balanced(KtoSettings(undesirable_weight=5.0), good=good, bad=bad)
    assert undesirable == 5.0
    assert 1 - 1e-9 <= desirable * good / (5.0 * bad) <= 4 / 3 + 1e-9


def test_labels_of_one_kind_are_refused_before_the_model_is_loaded(tmp_path: Path):
    found = [Example([1, 2], [[3]], value=1.0), Example([4, 2], [[3]], value=1.0)]
    with pytest.raises(FailedPrecondition, match=r"all 2 answers of .* are good") as caught:
        make_trainer("kto", base=FOLDER, examples=found, folder=tmp_path)
    assert caught.value.reason == "LABELS_ONE_SIDED"
    with pytest.raises(FailedPrecondition, match="are bad"):
        make_trainer("kto", base=FOLDER, examples=[replace(e, value=0.0) for e in found], folder=tmp_path)


def labels(record: record_pb2.Record, **settings: float) -> tuple[list[tuple[str, float]], Counter[str]]:
    dropped: Counter[str] = Counter()
    own = KtoSettings(**settings)
    found = samples_of(record, media={}, method="kto", target="", settings=own, dropped=dropped)
    return [(str(sample.answers[0][0]), sample.value) for sample in found], dropped


def test_the_preferred_answer_is_good_and_the_other_is_bad(record: record_pb2.Record):
    record.responses[0].feedback.scores[0].score = 3
    assert labels(record)[0] == [("bye", 0.0), ("hello", 1.0)]
    record.ClearField("preference")
    record.comparison.verdict = record_pb2.VERDICT_WIN
    assert labels(record)[0] == [("bye", 0.0), ("hello", 1.0)]


def test_without_a_preference_ratings_decide_and_those_between_are_counted(record: record_pb2.Record):
    record.ClearField("preference")
    assert labels(record)[0] == [("bye", 0.0), ("hello", 1.0)]
    for score in record.responses[0].feedback.scores:
        score.score = 2
    assert labels(record)[0] == [("bye", 1.0), ("hello", 1.0)]
    assert labels(record, good_score=2.5) == ([("hello", 1.0)], Counter(SCORE_BETWEEN=1))
    for response in record.responses:
        response.ClearField("feedback")
    with pytest.raises(Dropped, match="NO_LABEL"):
        labels(record)


def test_labels_of_single_answers_come_before_ratings_and_sft_learns_from_good_ones_alone(record: record_pb2.Record):
    record.ClearField("preference")
    record.responses[0].good, record.responses[1].good = True, False
    assert labels(record)[0] == [("bye", 1.0), ("hello", 0.0)]
    record.responses[0].ClearField("good")
    assert labels(record)[0] == [("bye", 0.0), ("hello", 0.0)], "the other is rated"
    record.responses[0].good = False
    with pytest.raises(Dropped, match="LABELLED_BAD"):
        samples_of(record, media={}, method="sft", target="response", settings=None, dropped=Counter())
    record.responses[0].good = True
    (sample,) = samples_of(record, media={}, method="sft", target="response", settings=None, dropped=Counter())
    assert str(sample.answers[0][0]) == "bye"


def test_thresholds_that_overlap_are_refused():
    found = problems({**GOOD, "kto": {"good_score": 1.0, "bad_score": 1.0}}, method="kto")
    assert "kto.good_score (1)" in found["kto.bad_score"]
