"""Measures and weights that are no numbers end a run."""

import pytest
import torch

from training.loop import require_finite_weights
from training.progress import require_finite


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
