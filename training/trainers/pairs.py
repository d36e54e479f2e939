"""Preference pairs: what all losses on them share, and the trainer of those that need no reference.

In such a loss the reward of an answer comes from its mean log-probability, p̄ = (1/|y|) Σ log π(y_t | x, y_<t), the end
token included. A method names a loss of one pair; it is averaged over the pairs of the whole optimiser step, and
`sft_weight` adds the negative log-likelihood of the chosen answers, averaged over the step's tokens.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import torch
from datasets import Dataset
from transformers import TrainingArguments

from training import distributed, fused_lm_head
from training.batches import IGNORED, PairCollator, blank_example, pair_row
from training.loop import DurableTrainer, TrainerInputs
from training.media import name_media

Reward = Callable[[torch.Tensor], torch.Tensor]
"""From mean log-probabilities (pairs,) to rewards (pairs,)."""
PairLoss = Callable[[torch.Tensor], torch.Tensor]
"""From how far the chosen answers' rewards are ahead (pairs,) to losses (pairs,)."""


class PairTrainer(DurableTrainer):
    """Weighs passes so that every pair, and every token of a chosen answer, counts alike over a whole step."""

    _in_step: torch.Tensor
    """How many pairs and tokens of chosen answers the passes of all ranks hold together: (2,)."""

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> Any:
        """The passes of an optimiser step; also counts what the passes of all ranks hold together."""
        batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        counted = torch.stack([pairs_and_tokens(batch) for batch in batches]).sum(0, keepdim=True)  # (1, 2)
        self._in_step = self.accelerator.gather(counted.to(device)).sum(0)
        return batches, items

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """The loss of one pass, in which every pair and every token of the step has the same weight."""
        # A trainer averages over a pass, and that over passes and ranks. A pass of few pairs or tokens would count as
        # much as one of many, so each is weighted by its share of the step's.
        passes = self.current_gradient_accumulation_steps * distributed.world_size()
        held = pairs_and_tokens(inputs)
        of_pairs, of_tokens = (held * passes / self._in_step).tolist()
        self._is_blank = not held.any()
        if self._is_blank:
            # A blank pass weighs nothing but must use all weights of the model, like those of the other ranks:
            # gradients are reduced as they are made.
            inputs = {**inputs, "completion_mask": inputs["attention_mask"]}
        loss = self.pass_loss(model, inputs, of_pairs, of_tokens, *args, **kwargs)
        self._is_blank = False
        return loss

    def pass_loss(
        self, model: Any, inputs: dict[str, torch.Tensor], of_pairs: float, of_tokens: float, *args: Any, **kwargs: Any
    ) -> Any:
        """The weighted loss of one pass; a method says it."""
        raise NotImplementedError


def pairs_and_tokens(batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """How many pairs a batch has, and how many tokens their chosen answers have: (2,). A blank row is no pair.

    The chosen rows come before the rejected ones.
    """
    mask = batch["completion_mask"]
    chosen = mask[: len(mask) // 2, 1:].sum(1)  # (pairs,)
    return torch.stack([(chosen > 0).sum(), chosen.sum()])


class ReferenceFree(PairTrainer):
    """Trains L(r(p̄_chosen) - r(p̄_rejected)) + w · NLL(chosen), without a second model."""

    def __init__(self, *, reward: Reward, pair_loss: PairLoss, sft_weight: float, **options: Any) -> None:
        self._reward, self._pair_loss, self._sft_weight = reward, pair_loss, sft_weight
        self._sums: dict[str, torch.Tensor] = defaultdict(lambda: torch.zeros(2))
        self._total_train_tokens = 0.0
        super().__init__(**options)
        fused_lm_head.add_head(self.model)
        # The loss is that of a pass, already weighted: the trainer is to average over passes, and over nothing else.
        self.model_accepts_loss_kwargs = False

    def pass_loss(
        self, model: Any, inputs: dict[str, torch.Tensor], of_pairs: float, of_tokens: float, *args: Any, **kwargs: Any
    ) -> Any:
        """The weighted loss of one pass."""
        given = {name: value for name, value in inputs.items() if name != "completion_mask"}
        mask = inputs["completion_mask"]
        labels = inputs["input_ids"].masked_fill(mask == 0, IGNORED)
        # (2 pairs, columns - 1); zero where there is no label.
        log_probs = model(**given, labels=labels, use_cache=False, fused_lm_head=True).log_probs
        sums, counts = log_probs.sum(1), mask[:, 1:].sum(1)  # (2 pairs,)
        chosen, rejected = self._reward(sums / counts).chunk(2)  # (pairs,)
        loss = of_pairs * self._pair_loss(chosen - rejected).mean()
        if self._sft_weight:
            pairs = len(chosen)
            loss = loss - of_tokens * self._sft_weight * sums[:pairs].sum() / counts[:pairs].sum()
        self._measure(sums.detach(), chosen.detach(), rejected.detach())
        self._total_train_tokens += float(self.accelerator.gather(inputs["attention_mask"].sum()).sum())
        return loss

    def _measure(self, sums: torch.Tensor, chosen: torch.Tensor, rejected: torch.Tensor) -> None:
        """Adds a pass's measures over all ranks, by pair; a blank pass adds none."""
        measures = {
            "logps/chosen": sums[: len(chosen)],
            "logps/rejected": sums[len(chosen) :],
            "rewards/chosen": chosen,
            "rewards/rejected": rejected,
            "rewards/margins": chosen - rejected,
            "rewards/accuracies": (chosen > rejected).float(),
        }
        for name, values in measures.items():
            gathered = self.accelerator.gather(values)
            self._sums[name] = self._sums[name] + torch.tensor([float(gathered.sum()), len(gathered)])

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Logs a step, its measures averaged over its pairs."""
        means = {name: float(total / count) for name, (total, count) in self._sums.items() if count}
        self._sums.clear()
        super().log({**logs, **means, "num_tokens": self._total_train_tokens}, *args, **kwargs)


def build_reference_free(inputs: TrainerInputs, *, reward: Reward, pair_loss: PairLoss) -> ReferenceFree:
    """The trainer of a run with a loss that needs no reference."""
    pad_id = inputs.tokenizer.pad_token_id
    shown = [*inputs.examples, blank_example(pad_id)]
    rows = name_media([pair_row(e.prompt, *e.answers) for e in shown], shown)
    # Before the model: under ZeRO-3 the arguments decide how `from_pretrained` places the weights.
    arguments = TrainingArguments(**inputs.arguments)
    trainer = ReferenceFree(
        reward=reward,
        pair_loss=pair_loss,
        sft_weight=inputs.hyperparameters.sft_weight,
        model=inputs.load_model(),
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        processing_class=inputs.tokenizer,
        data_collator=PairCollator(pad_id=pad_id, media=inputs.media),
    )
    trainer.lengths = [example.length for example in inputs.examples]
    return trainer
