"""ORPO (Hong et al. 2024): fine-tuning on the chosen answer, with odds that favour it over the rejected one.

L = w · NLL(chosen) - λ log σ(r_chosen - r_rejected) with r = log(P / (1 - P)) and P = exp(p̄). NLL is averaged over the
tokens and the second term over the pairs of the whole optimiser step. λ is `beta`, w is `sft_weight`.
"""

import torch
from torch.nn.functional import logsigmoid

from training.trainer_inputs import TrainerInputs
from training.trainers.pairs import ReferenceFree, build_reference_free


def log_odds(mean_log_prob: torch.Tensor) -> torch.Tensor:
    """log(P / (1 - P)) of P = exp(p̄), of any shape; finite up to p̄ = 0, where the odds are infinite."""
    # log(1 - e^p̄), in the form that keeps its digits on either side of -log 2 (Mächler 2012).
    small = mean_log_prob.clamp(max=-1e-7)
    rest = torch.where(small > -0.6931, torch.log(-torch.expm1(small)), torch.log1p(-torch.exp(small)))
    return small - rest


def pair_loss(ahead: torch.Tensor, *, weight: float) -> torch.Tensor:
    """-λ log σ(r_chosen - r_rejected), of any shape."""
    return -weight * logsigmoid(ahead)


def build(inputs: TrainerInputs) -> ReferenceFree:
    """The trainer of a run."""
    weight = inputs.hyperparameters.beta
    return build_reference_free(inputs, reward=log_odds, pair_loss=lambda ahead: pair_loss(ahead, weight=weight))
