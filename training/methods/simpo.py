"""SimPO (Meng et al. 2024): the reward is the mean log-probability itself, so no reference is needed.

L = -log σ(r_chosen - r_rejected - γ) with r = β p̄, averaged over the pairs of the whole optimiser step. β is `beta`,
γ is `simpo.margin`. With `sft_weight` w, w · NLL(chosen) is added, which keeps the chosen answers likely, as CPO does.
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


def reward(mean_log_prob: torch.Tensor, *, beta: float) -> torch.Tensor:
    """r = β p̄, of any shape."""
    return beta * mean_log_prob


def pair_loss(ahead: torch.Tensor, *, margin: float) -> torch.Tensor:
    """-log σ(r_chosen - r_rejected - γ), of any shape."""
    return -logsigmoid(ahead - margin)


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
        reward=lambda mean: reward(mean, beta=hyperparameters.beta),
        pair_loss=lambda ahead: pair_loss(ahead, margin=spec.simpo.margin),
    )
