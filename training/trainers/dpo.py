"""Direct preference optimisation against a frozen copy of the start, with a likelihood term on the chosen answer.

L = -log σ(β (Δ_chosen - Δ_rejected)) + w · NLL(chosen), where Δ is log π(answer | prompt) - log π_ref(answer | prompt),
summed over the answer's tokens, the end token included. The first term is averaged over the pairs of the whole
optimiser step, NLL over their chosen answers' tokens. β is `beta`, w is `sft_weight`. The reference's log-probabilities
are computed once, before the first step, so no second model stays in memory.
"""

from typing import Any

import torch
from datasets import Dataset
from torch.utils.data import DataLoader
from trl import DPOConfig, DPOTrainer
from trl.models import prepare_deepspeed

from training.batches import PairCollator, blank_example, by_length, pair_row
from training.loop import TrainerInputs
from training.media import name_media
from training.trainers.pairs import PairTrainer
from training.watchdog import Phase, Watchdog


class Dpo(PairTrainer, DPOTrainer):  # type: ignore[misc]
    """TRL's trainer on rows that are token ids already, with a likelihood term over the tokens of a whole step."""

    def __init__(self, *, sft_weight: float, watchdog: Watchdog, **options: Any) -> None:
        self._sft_weight, self._watchdog = sft_weight, watchdog
        super().__init__(**options)

    def _prepare_dataset(self, dataset: Dataset, *args: Any, **kwargs: Any) -> Dataset:
        # TRL would tokenise texts here; our ids come from the adapter, which the engine uses too.
        return dataset

    def _precompute_ref_logps(self, dataset: Dataset, name: str, batch_size: int) -> Dataset:
        """Adds the reference's summed log-probability of either answer to each row.

        TRL's own method hands them from rank 0 to the others through a cache file, but for data in memory each process
        makes a cache folder of its own, and the other ranks fail to find the file.
        """
        loader = DataLoader(dataset, batch_size=batch_size, collate_fn=self.data_collator, shuffle=False)
        engine = prepare_deepspeed(self.model, self.accelerator)
        found: dict[str, list[float]] = {"ref_chosen_logps": [], "ref_rejected_logps": []}
        self._watchdog.enter(Phase.REFERENCE)
        for batch in self.accelerator.prepare(loader):
            self._watchdog.beat()
            # Two tensors of (rows of all ranks,), in the order of the data; `gather_for_metrics` drops the rows that
            # the loader repeats to fill up the last batch.
            sums = self.accelerator.gather_for_metrics(self.compute_ref_log_probs(engine, batch))
            for column, values in zip(found, sums, strict=True):
                found[column] += values.tolist()
        for column, values in found.items():
            dataset = dataset.add_column(column, values)
        return dataset

    def pass_loss(
        self, model: Any, inputs: dict[str, torch.Tensor], of_pairs: float, of_tokens: float, *args: Any, **kwargs: Any
    ) -> Any:
        """TRL's loss of one pass, its terms weighted."""
        self.loss_weights = [of_pairs, self._sft_weight * of_tokens][: len(self.loss_types)]
        return DPOTrainer.compute_loss(self, model, inputs, *args, **kwargs)


def build(inputs: TrainerInputs) -> Dpo:
    """The trainer of a run."""
    # The reference pass takes the rows in this order; from short to long, its batches carry little padding.
    examples, pad_id = inputs.examples, inputs.tokenizer.pad_token_id
    ordered = [examples[index] for index in by_length([example.length for example in examples])]
    shown = [*ordered, blank_example(pad_id)]
    rows = name_media([pair_row(e.prompt, *e.answers) for e in shown], shown)
    settings = inputs.hyperparameters
    with_sft = settings.sft_weight > 0
    # Before the model: under ZeRO-3 the arguments decide how `from_pretrained` places the weights.
    arguments = DPOConfig(
        **inputs.arguments,
        beta=settings.beta,
        loss_type=["sigmoid", "sft"] if with_sft else ["sigmoid"],
        loss_weights=[1.0, settings.sft_weight] if with_sft else None,
        precompute_ref_log_probs=True,
        max_length=None,
    )
    trainer = Dpo(
        sft_weight=settings.sft_weight,
        watchdog=inputs.watchdog,
        model=inputs.load_model(),
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        processing_class=inputs.tokenizer,
        data_collator=PairCollator(pad_id=pad_id, media=inputs.media),
    )
    trainer.lengths = [example.length for example in ordered]
    return trainer
