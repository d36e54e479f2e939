"""Direct preference optimisation (Rafailov et al. 2023) and its family, against a frozen copy of the start.

Δ is log π(answer | prompt) - log π_ref(answer | prompt), summed over the answer's tokens, the end token included; h is
Δ_chosen - Δ_rejected, and β is `beta`. The loss of a pair is

    sigmoid  -(1 - ε) log σ(β h) - ε log σ(-β h)    ε is `label_smoothing` (conservative DPO, Mitchell 2023)
    ipo      (h̄ - 1 / 2β)²                          h̄ from Δ per token (Azar et al. 2023, as its authors normalise)
    mpo      0.8 sigmoid + 0.2 BCO                  (Wang et al. 2024)

BCO (Jung et al. 2024) asks of each answer alone whether it is good: -log σ(β Δ_chosen - δ) - log σ(δ - β Δ_rejected).
δ is the mean reward β Δ of all answers of the steps before, so that every pass of a step has the same one.

`sft_weight` w adds w · NLL(chosen); for mpo it is 1 unless given, as published.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch.nn.functional import logsigmoid
from transformers import TrainingArguments

from training.batches import PairCollator, Rows, blank_example, pair_row
from training.methods.dpo import PREFERENCE_WEIGHT, QUALITY_WEIGHT, DpoSettings
from training.trainer_inputs import TrainerInputs
from training.trainers.pairs import LikelihoodPairs
from training.trainers.reference import add_reference
from training.trainers.step_means import answer_log_probs

REFERENCE = ("ref_chosen_logps", "ref_rejected_logps")


class Dpo(LikelihoodPairs):
    """Trains on rows that carry the reference's log-probabilities."""

    def __init__(self, *, beta: float, settings: DpoSettings, **options: Any) -> None:
        self._beta, self._settings = beta, settings
        self._rewards_before = torch.zeros(2, dtype=torch.float64)  # sum and number, over all ranks
        self._shift = 0.0
        super().__init__(**options)

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> Any:
        """The passes of an optimiser step; also fixes their δ."""
        total, count = self._rewards_before.tolist()
        self._shift = total / max(count, 1)
        return super().get_batch_samples(epoch_iterator, num_batches, device)

    def losses(
        self, log_probs: torch.Tensor, lengths: torch.Tensor, inputs: Mapping[str, Any]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The loss of each pair (pairs,), and β Δ of each answer (2 pairs,), as the loss takes Δ."""
        ratios = log_probs - torch.cat([inputs[column] for column in REFERENCE])
        if self._settings.takes_means:
            ratios = ratios / lengths
        rewards = self._beta * ratios
        losses = preference_loss(rewards, beta=self._beta, settings=self._settings)
        if self._settings.loss == "mpo":
            losses = PREFERENCE_WEIGHT * losses + QUALITY_WEIGHT * quality_loss(rewards, shift=self._shift)
            self._note_rewards(rewards)
        return losses, rewards

    def _note_rewards(self, rewards: torch.Tensor) -> None:
        if not self.is_evaluating:
            gathered = self.accelerator.gather(rewards.detach()).double()
            self._rewards_before += torch.tensor([float(gathered.sum()), len(gathered)], dtype=torch.float64)

    def method_state(self) -> dict[str, torch.Tensor]:
        """What δ is the mean of."""
        return {"rewards_before": self._rewards_before} if self._settings.loss == "mpo" else {}

    def restore_method_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Goes on from a checkpoint's δ."""
        self._rewards_before = state["rewards_before"]


def preference_loss(rewards: torch.Tensor, *, beta: float, settings: DpoSettings) -> torch.Tensor:
    """The loss on the order of each pair, (pairs,); `rewards` are β Δ, (2 pairs,), the chosen ones first."""
    chosen, rejected = rewards.chunk(2)
    ahead, smoothing = chosen - rejected, settings.label_smoothing
    if settings.loss == "ipo":
        return torch.square((ahead - 0.5) / beta)
    return -(1 - smoothing) * logsigmoid(ahead) - smoothing * logsigmoid(-ahead)


def quality_loss(rewards: torch.Tensor, *, shift: float) -> torch.Tensor:
    """BCO's loss, (pairs,); `rewards` are β Δ, (2 pairs,), the chosen ones first, and `shift` is δ."""
    chosen, rejected = rewards.chunk(2)
    return -logsigmoid(chosen - shift) - logsigmoid(shift - rejected)


def build(inputs: TrainerInputs) -> Dpo:
    """The trainer of a run."""
    # The reference pass takes the rows in this order; from short to long, its batches carry little padding.
    inputs, pad_id = inputs.by_length(), inputs.tokenizer.pad_token_id
    # Before the model: under ZeRO-3 the arguments decide how `from_pretrained` places the weights.
    arguments = TrainingArguments(**inputs.arguments)
    trainer = Dpo(
        beta=inputs.hyperparameters.beta,
        settings=inputs.spec.settings,
        sft_weight=inputs.hyperparameters.sft_weight,
        model=inputs.load_model(),
        args=arguments,
        train_dataset=Rows(inputs.shown, pair_row, blank=blank_example(pad_id)),
        processing_class=inputs.tokenizer,
        data_collator=PairCollator(pad_id=pad_id, media=inputs.media),
    )
    inputs.give_lengths(trainer)
    add_reference(
        trainer,
        REFERENCE,
        score=lambda model, batch: answer_log_probs(model, batch).sum(1).chunk(2),
        inputs=inputs,
    )
    return trainer
