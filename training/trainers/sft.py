"""Supervised fine-tuning: L = -log p(answer | prompt), averaged over the answers' tokens; the prompt has no loss.

The mean is over the tokens of the whole optimiser step. Many models compute their own loss as a mean over one pass, in
which the tokens of a short pass would weigh more than those of a long one.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import TrainingArguments

from training.batches import Rows, SftCollator, blank_example, sft_row
from training.trainer_inputs import TrainerInputs
from training.trainers.step_means import StepMeansTrainer, answer_lengths, scored_answers


class Sft(StepMeansTrainer):
    """Averages over the tokens of a step's answers."""

    outputs = ("log_probs", "is_top1")

    def counts(self, batch: Mapping[str, Any]) -> torch.Tensor:
        """How many tokens the answers of a batch have: (1,)."""
        return answer_lengths(batch).sum()[None]

    def pass_terms(self, model: Any, inputs: dict[str, Any]) -> Sequence[torch.Tensor]:
        """The mean over the tokens of one pass."""
        scored, lengths = scored_answers(model, inputs), answer_lengths(inputs)
        self.measure({"mean_token_accuracy": scored.is_top1.sum(1) / lengths})
        return [-scored.log_probs.sum() / lengths.sum()]


def build(inputs: TrainerInputs) -> Sft:
    """The trainer of a run."""
    pad_id = inputs.tokenizer.pad_token_id
    # Before the model: under ZeRO-3 the arguments decide how `from_pretrained` places the weights.
    arguments = TrainingArguments(**inputs.arguments)
    trainer = Sft(
        model=inputs.load_model(),
        args=arguments,
        train_dataset=Rows(inputs.shown, sft_row, blank=blank_example(pad_id)),
        processing_class=inputs.tokenizer,
        data_collator=SftCollator(pad_id=pad_id, media=inputs.media),
    )
    inputs.give_lengths(trainer)
    return trainer
