"""SimPO (Meng et al. 2024): the reward is the mean log-probability itself, so no reference is needed.

L = -log σ(r_chosen - r_rejected - γ) with r = β p̄, averaged over the pairs of the whole optimiser step. β is `beta`,
γ is `simpo.margin`. With `sft_weight` w, w · NLL(chosen) is added, which keeps the chosen answers likely, as CPO does.
"""

import torch
from torch.nn.functional import logsigmoid

from training.trainer_inputs import TrainerInputs
from training.trainers.pairs import ReferenceFree, build_reference_free


def reward(mean_log_prob: torch.Tensor, *, beta: float) -> torch.Tensor:
    """r = β p̄, of any shape."""
    return beta * mean_log_prob


def pair_loss(ahead: torch.Tensor, *, margin: float) -> torch.Tensor:
    """-log σ(r_chosen - r_rejected - γ), of any shape."""
    return -logsigmoid(ahead - margin)


def build(inputs: TrainerInputs) -> ReferenceFree:
    """The trainer of a run."""
    beta, margin = inputs.hyperparameters.beta, inputs.spec.settings.margin
    return build_reference_free(
        inputs,
        reward=lambda mean: reward(mean, beta=beta),
        pair_loss=lambda ahead: pair_loss(ahead, margin=margin),
    )
