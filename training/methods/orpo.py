"""ORPO (Hong et al. 2024): fine-tuning on the chosen answer, with odds that favour it over the rejected one.

L = w · NLL(chosen) - λ log σ(r_chosen - r_rejected) with r = log(P / (1 - P)) and P = exp(p̄). NLL is averaged over the
tokens and the second term over the pairs of the whole optimiser step. λ is `beta`, w is `sft_weight`.
"""

from collections.abc import Callable, Sequence

import torch
from torch.nn.functional import logsigmoid
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from training.examples import Example
from training.media import BatchMedia
from training.methods.pairs import ReferenceFree, build_reference_free
from training.spec import Hyperparameters, Spec
from training.watchdog import Watchdog


def log_odds(mean_log_prob: torch.Tensor) -> torch.Tensor:
    """log(P / (1 - P)) of P = exp(p̄), of any shape; finite up to p̄ = 0, where the odds are infinite."""
    # log(1 - e^p̄), in the form that keeps its digits on either side of -log 2 (Mächler 2012).
    small = mean_log_prob.clamp(max=-1e-7)
    rest = torch.where(small > -0.6931, torch.log(-torch.expm1(small)), torch.log1p(-torch.exp(small)))
    return small - rest


def pair_loss(ahead: torch.Tensor, *, weight: float) -> torch.Tensor:
    """-λ log σ(r_chosen - r_rejected), of any shape."""
    return -weight * logsigmoid(ahead)


def build_trainer(
    load_model: Callable[[], PreTrainedModel],
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Example],
    *,
    media: BatchMedia,
    spec: Spec,
    hyperparameters: Hyperparameters,
    watchdog: Watchdog,
) -> ReferenceFree:
    """The trainer of a run."""
    del watchdog  # there is no pass over the data before the first step
    return build_reference_free(
        load_model,
        tokenizer,
        examples,
        media=media,
        spec=spec,
        hyperparameters=hyperparameters,
        reward=log_odds,
        pair_loss=lambda ahead: pair_loss(ahead, weight=hyperparameters.beta),
    )
