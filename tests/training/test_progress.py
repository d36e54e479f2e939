"""The file of a run's measures, and measures and weights that are no numbers, which end a run."""

import json
from pathlib import Path

import pytest
import torch

from training.loop import require_finite_weights
from training.progress import FILE, Progress, require_finite
from training.spec import Spec


def test_a_loss_that_is_no_number_is_a_typed_failure():
    require_finite({"loss": 1.0, "grad_norm": 2.0}, step=1)
    with pytest.raises(Exception, match="loss is nan at step 3") as caught:
        require_finite({"loss": float("nan")}, step=3)
    assert caught.value.reason == "LOSS_NOT_FINITE"
    with pytest.raises(Exception, match="grad_norm is -1"):
        require_finite({"loss": 1.0, "grad_norm": -1.0}, step=4)


def test_weights_that_are_no_numbers_are_a_typed_failure():
    layer = torch.nn.Linear(2, 2)
    require_finite_weights(layer, step=1)
    layer.bias.data[1] = float("inf")
    with pytest.raises(Exception, match="bias is not finite after step 2") as caught:
        require_finite_weights(layer, step=2)
    assert caught.value.reason == "WEIGHTS_NOT_FINITE"


def test_an_attempt_takes_back_the_steps_that_it_makes_again(tmp_path: Path):
    spec = Spec(
        job="projects/default/trainingJobs/run",
        dataset="projects/default/datasets/d",
        base_model_dir=tmp_path,
        output_dir=tmp_path,
        cache_dir=tmp_path,
    )
    first = Progress(spec, is_main=True)
    first.begin(step=0, total_steps=4)
    for number in (1, 2, 3):
        first.step(step=number, metrics={"loss": 1.0}, tokens=number)
    first.evaluated(2, {"eval/loss": 0.5}, best_step=2, stopped_early=False)
    first.close()
    with (tmp_path / FILE).open("a") as file:
        file.write('{"step": 2, "lo')  # it was killed while it wrote
    second = Progress(spec, is_main=True)
    second.begin(step=2, total_steps=4)
    second.step(step=3, metrics={"loss": 2.0}, tokens=5)
    second.close()
    assert [json.loads(line) for line in (tmp_path / FILE).read_text().splitlines()] == [
        {"step": 1, "tokens": 1, "loss": 1.0},
        {"step": 2, "tokens": 2, "loss": 1.0},
        {"step": 2, "eval/loss": 0.5},
        {"step": 3, "tokens": 5, "loss": 2.0},
    ]
