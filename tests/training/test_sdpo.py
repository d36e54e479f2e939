"""SDPO: loss and gradient against plain torch on rows without padding, its teacher, and what a record teaches."""

from collections import Counter
from pathlib import Path

import pytest
import torch

from examples.tinyworld.pretrain import FOLDER
from omnialign.modeling.adapters import load_adapter
from omnialign.v1 import record_pb2
from tests.training.formulas import Taken, sdpo
from tests.training.in_process import gradient, make_trainer, move, step
from tests.training.method_samples import encoded, samples_for, world_pairs
from tests.training.test_dpo import SUBTASKS
from tests.training.test_spec import GOOD, problems
from training.examples import Example
from training.media import BatchMedia
from training.methods.sdpo import SdpoSettings
from training.samples import Dropped, samples_of
from training.trainers.sdpo import with_rest
from training.tuning import load_model

KINDS = [{"divergence": "forward"}, {"divergence": "reverse"}, {"divergence": "jsd"}, {"top_k": 5}]


def critiqued(folder: Path) -> list[Example]:
    """The faulty answer of each pair, which a teacher with feedback on it reads too."""
    return encoded(samples_for("sdpo", world_pairs(*SUBTASKS)), base=FOLDER, folder=folder)


@pytest.mark.slow
def test_loss_and_gradient_of_a_step_equal_those_by_hand(tmp_path: Path):
    found = critiqued(tmp_path)
    assert all(len(example.teacher_prompt) > len(example.prompt) for example in found)
    media, initial = BatchMedia(load_adapter(FOLDER), tmp_path / "media"), load_model(FOLDER)
    for settings in KINDS:
        trainer = make_trainer("sdpo", base=FOLDER, examples=found, folder=tmp_path, sdpo=settings)
        # The student has moved, its teacher is still the start.
        move(trainer.model)
        # Passes of unequal size, and the blank row.
        loss, learnt = step(trainer, [[0, 1], [2], [3]]), gradient(trainer.model)
        trainer.model.zero_grad()
        wanted = sdpo(Taken(trainer.model, initial, found, media, settings=settings))
        wanted.backward()
        assert loss == pytest.approx(wanted.item(), rel=1e-5), settings
        assert float((learnt - gradient(trainer.model)).norm()) <= 1e-5 * float(learnt.norm()), settings


@pytest.mark.slow
def test_a_teacher_that_moves_is_an_average_of_the_students_and_goes_on_after_a_restart(tmp_path: Path):
    found = critiqued(tmp_path)
    given = {"base": FOLDER, "examples": found, "folder": tmp_path, "sdpo": {"teacher": "ema", "ema_decay": 0.5}}
    trainer, other = make_trainer("sdpo", **given), make_trainer("sdpo", **given)
    before = step(trainer, [[0, 1, 2]])
    for one in (trainer, other):
        move(one.model)
        one.state.global_step = 1
    moved = step(trainer, [[0, 1, 2]])
    assert moved != pytest.approx(before, rel=1e-3)
    start, state = load_model(FOLDER).state_dict(), trainer.method_state()
    for name, weight in trainer.model.named_parameters():
        torch.testing.assert_close(state[name], (start[name] + weight.detach()) / 2)
    # A teacher that is a quarter the start follows the student once more.
    other.restore_method_state(state)
    assert step(other, [[0], [1, 2]]) == pytest.approx(step(trainer, [[0, 1, 2]]), rel=1e-5)


def test_what_is_left_of_a_distribution_counts_as_one_more_choice():
    log_probs = torch.tensor([[0.5, 0.2], [0.75, 0.25]]).log()
    assert with_rest(log_probs).exp()[0].tolist() == pytest.approx([0.5, 0.2, 0.3])
    assert torch.isfinite(with_rest(log_probs)).all()


def taught(record: record_pb2.Record, *, along: str) -> list[str]:
    found = samples_of(record, media={}, method="sdpo", target="", settings=SdpoSettings(along=along))
    for sample in found:
        shown = "".join(str(piece) for turn in sample.teacher_turns for piece in turn.pieces)
        asked = "".join(str(piece) for turn in sample.turns for piece in turn.pieces)
        assert "##Critique:" in shown and "##Critique:" not in asked
    return [str(sample.answers[0][0]) for sample in found]


def test_every_response_with_feedback_teaches_and_the_gate_adds_its_refinement(record: record_pb2.Record):
    assert taught(record, along="both") == ["bye", "hello"]
    record.responses[1].ClearField("feedback")
    with pytest.raises(Dropped, match="NO_REFINEMENT"):
        taught(record, along="refinement")
    record.comparison.verdict = record_pb2.VERDICT_WIN
    assert taught(record, along="both") == ["bye", "hello"]
    assert taught(record, along="response") == ["bye"]
    assert taught(record, along="refinement") == ["hello"]
    record.responses[0].ClearField("feedback")
    with pytest.raises(Dropped, match="NO_FEEDBACK"):
        taught(record, along="both")


def test_settings_that_sdpo_has_no_place_for_are_refused_by_name():
    bad = {
        **GOOD,
        "sdpo": {"ema_decay": 1.0},
        "hyperparameters": {"beta": 0.1, "sft_weight": 1.0},
        "distribution": {"zero_stage": 3},
    }
    assert Counter(problems(bad, method="sdpo").keys()) == Counter(
        ["hyperparameters.beta", "hyperparameters.sft_weight", "sdpo.ema_decay", "distribution.zero_stage"]
    )
