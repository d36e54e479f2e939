"""Reward models: a scalar head on the backbone learns which answer is preferred.

L = -log σ(r_chosen - r_rejected - m) + c (r_chosen + r_rejected)², averaged over the pairs of the whole optimiser step.
The first term is the likelihood of Bradley and Terry (1952) as Ouyang et al. (2022) use it, with the margin m of
Touvron et al. (2023); the second keeps rewards around zero (Eisenstein et al. 2023). c is `reward.center_weight`; m is
the difference of the answers' ratings with `reward.use_margin`, otherwise 0. r is read at the answer's end token.
With `sft_weight`, the backbone goes on writing the chosen answers too, through the frozen head of the language model:
their negative log-likelihood, averaged over the step's tokens, is added times that weight. What it learns from few
pairs then holds better for others (Yang et al. 2024).
"""

import json
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.nn.functional import logsigmoid
from transformers import PreTrainedModel, TrainingArguments

from omnialign.modeling import reward
from omnialign.modeling.reward_folder import REPORT, is_reward_model
from training import holdout
from training.batches import PairCollator, Rows, blank_example, pair_row
from training.trainer_inputs import TrainerInputs
from training.trainers.pairs import PairTrainer
from training.trainers.step_means import answer_lengths, answer_log_probs, labelled_inputs


def pair_loss(
    chosen: torch.Tensor, rejected: torch.Tensor, margins: torch.Tensor, *, center_weight: float
) -> torch.Tensor:
    """The loss of each pair from the rewards of its answers, (pairs,) each."""
    return -logsigmoid(chosen - rejected - margins) + center_weight * (chosen + rejected) ** 2


def answer_rewards(model: Any, batch: Mapping[str, Any]) -> torch.Tensor:
    """The rewards (rows,) of the answers in a batch, from a model with a reward head and a fused one, which packs."""
    places = end_places(batch["completion_mask"])
    rewards: torch.Tensor = model(**labelled_inputs(batch), reward_at=places)
    return rewards


def end_places(completion_mask: torch.Tensor) -> torch.Tensor:
    """Where each answer's end token stands in a batch, (rows,), counted row after row.

    `completion_mask` is that of the answers' tokens, (rows, columns). Behind an end token may be padding, or a filler
    medium that the attention mask has as real tokens.
    """
    rows, columns = completion_mask.shape
    ends = columns - 1 - completion_mask.flip(1).argmax(1)
    return torch.arange(rows, device=ends.device) * columns + ends


class RewardTrainer(PairTrainer):
    """Trains a model that has a reward head, and reports how it orders the pairs held out."""

    def __init__(self, *, center_weight: float, sft_weight: float, **options: Any) -> None:
        self._center_weight, self._sft_weight = center_weight, sft_weight
        self._ahead: list[float] = []
        """How far the chosen answers of the pairs held out are ahead, the same on every rank."""
        super().__init__(**options)

    def pass_terms(self, model: Any, inputs: dict[str, Any]) -> Sequence[torch.Tensor]:
        """The mean over the pairs of one pass, and that over their chosen answers' tokens."""
        chosen, rejected = answer_rewards(model, inputs).chunk(2)  # (pairs,)
        losses = pair_loss(chosen, rejected, inputs["margins"], center_weight=self._center_weight)
        if self.is_evaluating:
            self._ahead += self.accelerator.gather(chosen - rejected).tolist()
        self.measure(
            {
                "rewards/chosen": chosen,
                "rewards/rejected": rejected,
                "rewards/margins": chosen - rejected,
                "rewards/accuracies": chosen > rejected,
            }
        )
        if not self._sft_weight:  # which would cost another pass
            return losses.mean(), losses.new_zeros(())
        log_probs, lengths = (of(inputs).chunk(2)[0] for of in (partial(answer_log_probs, model), answer_lengths))
        return losses.mean(), -self._sft_weight * log_probs.sum() / lengths.sum()

    def evaluate_held_out(self) -> dict[str, float]:
        """Also the numbers of the report."""
        self._ahead = []
        return {**super().evaluate_held_out(), **holdout.report_of(self._ahead).metrics()}

    def evaluation_files(self) -> dict[str, bytes]:
        """The report of the last evaluation, for the model's folder."""
        return {REPORT: json.dumps(holdout.report_of(self._ahead).document(), indent=1).encode()}


def build(inputs: TrainerInputs) -> RewardTrainer:
    """The trainer of a run."""
    settings, pad_id = inputs.spec.settings, inputs.tokenizer.pad_token_id
    margins = inputs.shown.values if settings.use_margin else np.zeros(len(inputs.shown))
    # Before the model: under ZeRO-3 the arguments decide how `from_pretrained` places the weights.
    arguments = TrainingArguments(**inputs.arguments)
    trainer = RewardTrainer(
        center_weight=settings.center_weight,
        sft_weight=inputs.hyperparameters.sft_weight,
        model=load_reward_model(inputs),
        args=arguments,
        train_dataset=Rows(inputs.shown, pair_row, blank=blank_example(pad_id), numbers={"margins": margins}),
        processing_class=inputs.tokenizer,
        data_collator=PairCollator(pad_id=pad_id, media=inputs.media),
    )
    inputs.give_lengths(trainer)
    return trainer


def load_reward_model(inputs: TrainerInputs) -> PreTrainedModel:
    """The base with its own reward head, or a new one. What neither of them reads, its other heads, is frozen."""
    model, folder = inputs.load_model(), inputs.spec.base_model_dir
    hidden_size = reward.hidden_size(model)
    if is_reward_model(folder):
        head = reward.load_head(folder, hidden_size=hidden_size)
    else:
        head = reward.new_head(hidden_size, seed=inputs.hyperparameters.seed)
    reward.add_head(model, head)
    read = {id(weight) for part in (model.base_model, model.score) for weight in part.parameters()}
    for weight in model.parameters():
        if id(weight) not in read:
            weight.requires_grad_(False)
    return model
