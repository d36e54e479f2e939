"""Every method on every family: loss and gradient of a step against its formula, with all that the family reads.

`out/methods/<method>.<family>.json` says which modalities were in it; `docs/training.md` is made of these files.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch

from examples.tinyworld.pretrain import FOLDER
from omnialign.modeling.adapters import load_adapter
from omnialign.modeling.inputs import MediaBytes, Pieces
from tests.training import formulas
from tests.training.formulas import Taken
from tests.training.in_process import (
    backward,
    gradient,
    kept,
    log_probs,
    make_trainer,
    mismatched_answers,
    move,
    move_towards,
    step,
)
from tests.training.method_samples import encoded, samples_for, world_pairs
from tests.training.multimodal import MODALITIES, TRAINED, medium, question
from training.examples import Example
from training.media import BatchMedia
from training.methods import METHODS
from training.rollout.answers import Rewarded, Rollout
from training.samples import Sample
from training.tuning import load_model

OUT = Path(__file__).parents[2] / "out" / "methods"
TINY_WORLD = "tinyworld"
SUBTASKS = ("t2t", "t2i", "t2a", "t2v", "ti2t", "ta2t", "tv2t", "ti2ti")
BETA, WEIGHT = 0.7, 0.5
REWARDS, ENGINE_IS_AHEAD, CAP = (1.0, 0.0), (0.3, -0.3), 1.2
"""Of the answers of every group: rewards, by how much the engine finds a token likelier, and the largest weight."""
ROLLOUT = {"rewards": [{"well_formed": True}], "max_importance_weight": CAP}
SETTINGS: dict[str, dict[str, Any]] = {
    "reward": {"center_weight": 0.05},
    "simpo": {"margin": 0.25},
    "kto": {"desirable_weight": 2.0, "undesirable_weight": 3.0},
    "grpo": {"group_size": 2, "rollout": ROLLOUT},
    "ppo": {"num_samples": 2, "gae_lambda": 0.95, "rollout": ROLLOUT},
}
HYPERPARAMETERS = {
    "reward": {"sft_weight": WEIGHT},
    "dpo": {"beta": BETA, "sft_weight": WEIGHT},
    "kto": {"beta": BETA, "sft_weight": WEIGHT, "max_length": 4096},
    "simpo": {"beta": BETA, "sft_weight": WEIGHT},
    "orpo": {"beta": BETA, "sft_weight": WEIGHT},
    "grpo": {"beta": BETA},
    "ppo": {"beta": BETA},
}


@pytest.fixture(scope="module", params=[TINY_WORLD, *TRAINED])
def family(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def base(family: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return FOLDER if family == TINY_WORLD else TRAINED[family].build(tmp_path_factory.mktemp("model") / family)


def pairs_of(family: str) -> list[Sample]:
    """Pairs with all that a family reads and writes, one medium alone, all together, and none."""
    if family == TINY_WORLD:
        return world_pairs(*SUBTASKS)
    shown = [medium(kind, seed=2) for kind in TRAINED[family].reads]
    drawn = [medium(kind, seed=3) for kind in TRAINED[family].writes]
    return [
        Sample(question("What is it?", *shown[:1]), (("It is this, really.", *drawn), ("No.",))),
        Sample(question("Who?"), (("She.",), ("Nobody that I know.", *drawn))),
        Sample(question(*shown, "Which?"), (("The last.",), ("All of them.",))),
    ]


@pytest.mark.parametrize("method", METHODS)
def test_loss_and_gradient_of_a_step_equal_the_formula(method: str, family: str, base: Path, tmp_path: Path):
    samples = samples_for(method, pairs_of(family))
    found = encoded(samples, base=base, folder=tmp_path)
    media = BatchMedia(load_adapter(base), tmp_path / "media")
    own = {method: SETTINGS[method]} if method in SETTINGS else {}
    hyper = {"hyperparameters": HYPERPARAMETERS[method]} if method in HYPERPARAMETERS else {}
    services = {f"{name}_address": "127.0.0.1:1" for name in ("data", "refinement", "judge")}
    trainer = make_trainer(method, base=base, examples=found, folder=tmp_path, **own, **hyper, **services)
    model, start = trainer.model, load_model(base)
    others = mismatched_answers(kept(found, tmp_path), max_length=4096, seed=0) if method == "kto" else []
    if method == "kto":  # towards answers that the point of reference is made of, or it would be zero
        move_towards(model, [log_probs(model, e, y, media) for e, y in zip(found, others, strict=True)])
    else:
        move(model)
    more: dict[str, Any] = {}
    if METHODS[method].rows == "prompt":
        more = {"rewards": REWARDS, "engine_is_ahead": ENGINE_IS_AHEAD, "cap": CAP}
        loss = rollout_step(trainer, found, media)
    else:
        if method == "kto":
            more = {"others": others, "desirable": 2.0, "undesirable": 3.0}
        # Passes of unequal size, and the blank row, which teaches nothing.
        first, second = list(range(0, len(found), 2)), list(range(1, len(found), 2))
        loss = step(trainer, [first, second, [len(found)]])
    learnt = gradient(model)
    model.zero_grad()
    weights = HYPERPARAMETERS.get(method, {})
    taken = Taken(
        model,
        start,
        found,
        media,
        beta=weights.get("beta", 0.0),
        sft_weight=weights.get("sft_weight", 0.0),
        settings=SETTINGS.get(method, {}),
    )
    wanted = getattr(formulas, method)(taken, **more)
    wanted.backward()
    assert loss == pytest.approx(wanted.item(), rel=1e-5, abs=1e-5)
    assert float(learnt.norm()) > 0
    assert float((learnt - gradient(model)).norm()) <= 3e-5 * float(learnt.norm())
    note(method, family, samples)


def rollout_step(trainer: Any, found: Sequence[Example], media: BatchMedia) -> float:
    """The loss of a step whose rollout is the answers of the examples."""
    groups = []
    for row, example in enumerate(found):
        group = []
        for answer, reward, lead in zip(example.answers, REWARDS, ENGINE_IS_AHEAD, strict=True):
            with torch.no_grad():
                own = log_probs(trainer.model, example, answer, media)
            group.append(Rewarded(row, answer, (own + lead).tolist(), reward, 0))
        groups.append(group)
    trainer.args.gradient_accumulation_steps = trainer.current_gradient_accumulation_steps = 2
    passes = trainer._cut(trainer.rows(Rollout(groups)))
    with patch("training.trainers.online.prepare_deepspeed", lambda model, accelerator: model.eval()):
        trainer.prepare_passes(passes)
    return backward(trainer, passes)


def note(method: str, family: str, samples: Sequence[Sample]) -> None:
    """Writes down what held."""
    read = [turn.pieces for sample in samples for turn in sample.turns]
    written = [answer for sample in samples for answer in sample.answers]
    OUT.mkdir(parents=True, exist_ok=True)
    seen = {"method": method, "family": family, "reads": kinds(read), "writes": kinds(written)}
    (OUT / f"{method}.{family}.json").write_text(json.dumps(seen) + "\n")


def kinds(texts: Sequence[Pieces]) -> list[str]:
    """The modalities of the media in texts."""
    held = {piece.modality for pieces in texts for piece in pieces if isinstance(piece, MediaBytes)}
    return [name for name, modality in MODALITIES.items() if modality in held]
