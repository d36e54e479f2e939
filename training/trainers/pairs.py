"""Preference pairs: what all losses on the likelihood of their answers share, and the trainer that needs no reference.

A method names a loss of one pair; it is averaged over the pairs of the whole optimiser step, and `sft_weight` adds the
negative log-likelihood of the chosen answers, averaged over the step's tokens.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from transformers import TrainingArguments

from training.batches import PairCollator, Rows, blank_example, pair_row
from training.trainer_inputs import TrainerInputs
from training.trainers.step_means import StepMeansTrainer, answer_lengths, answer_log_probs

Reward = Callable[[torch.Tensor], torch.Tensor]
"""From mean log-probabilities (pairs,) to rewards (pairs,)."""
PairLoss = Callable[[torch.Tensor], torch.Tensor]
"""From how far the chosen answers' rewards are ahead (pairs,) to losses (pairs,)."""


class PairTrainer(StepMeansTrainer):
    """Averages over the pairs of a step, and over the tokens of their chosen answers."""

    def counts(self, batch: Mapping[str, Any]) -> torch.Tensor:
        """How many pairs a batch has, and how many tokens their chosen answers have: (2,). A blank row is no pair.

        The chosen rows come before the rejected ones.
        """
        chosen = answer_lengths(batch).chunk(2)[0]  # (pairs,)
        return torch.stack([(chosen > 0).sum(), chosen.sum()])


class LikelihoodPairs(PairTrainer):
    """Trains a loss on the log-probabilities of both answers, plus w · NLL(chosen)."""

    def __init__(self, *, sft_weight: float, **options: Any) -> None:
        self._sft_weight = sft_weight
        super().__init__(**options)

    def losses(
        self, log_probs: torch.Tensor, lengths: torch.Tensor, inputs: Mapping[str, Any]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The loss of each pair (pairs,) and the reward of each answer (2 pairs,), the chosen ones first.

        `log_probs` and `lengths`, in tokens, are those of the answers: (2 pairs,).
        """
        raise NotImplementedError

    def pass_terms(self, model: Any, inputs: dict[str, Any]) -> Sequence[torch.Tensor]:
        """The mean over the pairs of one pass, and that over their chosen answers' tokens."""
        log_probs, lengths = answer_log_probs(model, inputs).sum(1), answer_lengths(inputs)
        losses, rewards = self.losses(log_probs, lengths, inputs)
        likelihood = log_probs.chunk(2)[0].sum() / lengths.chunk(2)[0].sum()
        (chosen, rejected), answers = rewards.chunk(2), log_probs.chunk(2)
        self.measure(
            {
                "logps/chosen": answers[0],
                "logps/rejected": answers[1],
                "rewards/chosen": chosen,
                "rewards/rejected": rejected,
                "rewards/margins": chosen - rejected,
                "rewards/accuracies": chosen > rejected,
            }
        )
        return losses.mean(), -self._sft_weight * likelihood


class ReferenceFree(LikelihoodPairs):
    """Trains L(r(p̄_chosen) - r(p̄_rejected)) + w · NLL(chosen), without a second model.

    The reward of an answer comes from its mean log-probability, p̄ = (1/|y|) Σ log π(y_t | x, y_<t), the end token
    included.
    """

    def __init__(self, *, reward: Reward, pair_loss: PairLoss, **options: Any) -> None:
        self._reward, self._pair_loss = reward, pair_loss
        super().__init__(**options)

    def losses(
        self, log_probs: torch.Tensor, lengths: torch.Tensor, inputs: Mapping[str, Any]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The method's loss on how far the chosen answers are ahead."""
        rewards = self._reward(log_probs / lengths)
        chosen, rejected = rewards.chunk(2)
        return self._pair_loss(chosen - rejected), rewards


def build_reference_free(inputs: TrainerInputs, *, reward: Reward, pair_loss: PairLoss) -> ReferenceFree:
    """The trainer of a run with a loss that needs no reference."""
    pad_id = inputs.tokenizer.pad_token_id
    # Before the model: under ZeRO-3 the arguments decide how `from_pretrained` places the weights.
    arguments = TrainingArguments(**inputs.arguments)
    trainer = ReferenceFree(
        reward=reward,
        pair_loss=pair_loss,
        sft_weight=inputs.hyperparameters.sft_weight,
        model=inputs.load_model(),
        args=arguments,
        train_dataset=Rows(inputs.shown, pair_row, blank=blank_example(pad_id)),
        processing_class=inputs.tokenizer,
        data_collator=PairCollator(pad_id=pad_id, media=inputs.media),
    )
    inputs.give_lengths(trainer)
    return trainer
