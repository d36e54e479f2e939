"""DPO's family: loss and gradient of a step against plain torch on rows without padding, media included."""

from pathlib import Path

import pytest
import torch

from examples.tinyworld.pretrain import FOLDER
from omnialign.errors import InvalidArgument
from omnialign.modeling.adapters import load_adapter
from tests.training.formulas import Taken, dpo
from tests.training.in_process import gradient, make_trainer, move, step
from tests.training.method_samples import encoded, world_pairs
from tests.training.test_spec import GOOD, problems
from training.media import BatchMedia
from training.methods import complete
from training.spec_file import parse_spec
from training.tuning import load_model

BETA, WEIGHT = 0.7, 0.5
LOSSES = [
    {},
    {"label_smoothing": 0.1},
    {"loss": "ipo"},
    {"loss": "mpo"},
    {"length_normalized": True},
]
SUBTASKS = ("ti2ti", "t2a", "tv2t")


@pytest.mark.slow
@pytest.mark.parametrize("settings", LOSSES, ids=lambda settings: "-".join(map(str, settings.values())) or "sigmoid")
def test_loss_and_gradient_of_a_step_equal_those_by_hand(tmp_path: Path, settings: dict):
    found = encoded(world_pairs(*SUBTASKS), base=FOLDER, folder=tmp_path)
    trainer = make_trainer(
        "dpo",
        base=FOLDER,
        examples=found,
        folder=tmp_path,
        hyperparameters={"beta": BETA, "sft_weight": WEIGHT},
        dpo=settings,
    )
    move(trainer.model)
    # The blank row, last, teaches nothing, and three rows in passes of two and one weigh alike.
    loss, learnt = step(trainer, [[0, 1], [2], [3]]), gradient(trainer.model)
    trainer.model.zero_grad()
    media = BatchMedia(load_adapter(FOLDER), tmp_path / "media")
    wanted = dpo(Taken(trainer.model, load_model(FOLDER), found, media, BETA, WEIGHT, settings))
    wanted.backward()
    assert loss == pytest.approx(float(wanted), rel=1e-5)
    assert float((learnt - gradient(trainer.model)).norm()) <= 1e-5 * float(learnt.norm())


@pytest.mark.slow
def test_the_shift_of_bco_is_the_mean_reward_of_the_steps_before_and_goes_on_after_a_restart(tmp_path: Path):
    found = encoded(world_pairs(*SUBTASKS), base=FOLDER, folder=tmp_path)
    given = {"base": FOLDER, "examples": found, "folder": tmp_path, "dpo": {"loss": "mpo"}}
    trainer, other = make_trainer("dpo", **given), make_trainer("dpo", **given)
    for one in (trainer, other):
        move(one.model)
    first = step(trainer, [[0, 1], [2]])
    rewards = trainer._sums["rewards/chosen"][0] + trainer._sums["rewards/rejected"][0]
    second = step(trainer, [[0, 1], [2]])
    assert second != pytest.approx(first, rel=1e-4)
    assert trainer._shift == pytest.approx(float(rewards) / 6, rel=1e-4)
    other.restore_method_state({"rewards_before": torch.tensor([float(rewards), 6], dtype=torch.float64)})
    assert step(other, [[0], [1], [2]]) == pytest.approx(second, rel=1e-5)
    assert list(other.method_state()) == ["rewards_before"]


def test_defaults_follow_the_loss():
    def of(section: dict) -> tuple[float, float]:
        filled = complete(parse_spec({**GOOD, "dpo": section}, method="dpo"), num_processes=1)
        return filled.beta, filled.sft_weight

    assert of({}) == (0.3, 0.0)
    assert of({"loss": "mpo"}) == (0.3, 1.0)
    assert of({"length_normalized": True}) == (2.0, 0.0)


@pytest.mark.parametrize(
    ("section", "other"),
    [
        ({"label_smoothing": 0.5}, "0.5"),
        ({"label_smoothing": 0.1, "loss": "ipo"}, "dpo.loss 'ipo'"),
        ({"length_normalized": True, "loss": "ipo"}, "dpo.loss 'ipo'"),
        ({"length_normalized": True, "loss": "mpo"}, "dpo.loss 'mpo'"),
    ],
)
def test_settings_that_a_loss_has_no_place_for_are_refused_and_both_are_named(section: dict, other: str):
    ((path, problem),) = problems({**GOOD, "dpo": section}, method="dpo").items()
    assert path in ("dpo.label_smoothing", "dpo.length_normalized")
    assert other in problem


def test_a_loss_of_another_name_is_refused():
    with pytest.raises(InvalidArgument, match=r"dpo\.loss: must be one of 'sigmoid', 'ipo', 'mpo', not 'hinge'"):
        parse_spec({**GOOD, "dpo": {"loss": "hinge"}}, method="dpo")
