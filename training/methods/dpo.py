"""Direct preference optimisation against a frozen copy of the start, with a likelihood term on the chosen answer.

L = -log σ(β (Δ_chosen - Δ_rejected)) + w · NLL(chosen), where Δ is the summed log-ratio to the reference over the
answer's tokens, the end token included. The reference's log-probabilities are computed once, before the first step.
"""

from collections.abc import Callable, Sequence
from typing import Any

from datasets import Dataset
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trl import DPOConfig, DPOTrainer
from trl.models import prepare_deepspeed

from training.arguments import by_length, common
from training.collators import PairCollator, pair_row
from training.loop import DurableTrainer
from training.media import BatchMedia, name_media
from training.spec import Hyperparameters, Spec
from training.tokens import Example


class Dpo(DurableTrainer, DPOTrainer):  # type: ignore[misc]
    """TRL's trainer on rows that are token ids already."""

    def _prepare_dataset(self, dataset: Dataset, *args: Any, **kwargs: Any) -> Dataset:
        # TRL would tokenise texts here; our ids come from the adapter, which the engine uses too.
        return dataset

    def _precompute_ref_logps(self, dataset: Dataset, name: str, batch_size: int) -> Dataset:
        """Adds the reference's summed log-probability of either answer to each row.

        TRL's own hands them from rank 0 to the others through a cache file in a folder that, for data held in
        memory, each process makes for itself; the others then fail to find it.
        """
        loader = DataLoader(dataset, batch_size=batch_size, collate_fn=self.data_collator, shuffle=False)
        engine = prepare_deepspeed(self.model, self.accelerator)
        found: dict[str, list[float]] = {"ref_chosen_logps": [], "ref_rejected_logps": []}
        for batch in self.accelerator.prepare(loader):
            sums = self.accelerator.gather_for_metrics(self.compute_ref_log_probs(engine, batch))
            for column, values in zip(found, sums, strict=True):
                found[column] += values.tolist()
        for column, values in found.items():
            dataset = dataset.add_column(column, values)
        return dataset


def trainer(
    load_model: Callable[[], PreTrainedModel],
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Example],
    *,
    media: BatchMedia,
    spec: Spec,
    hyperparameters: Hyperparameters,
) -> Dpo:
    """The trainer of a run. The model is loaded after the arguments exist: under ZeRO-3 they decide how."""
    # Short to long, so that the reference pass, which goes in this order, pads little.
    ordered = [examples[index] for index in by_length([example.length for example in examples])]
    rows = name_media([pair_row(e.prompt, *e.answers) for e in ordered], ordered)
    weighted = hyperparameters.sft_weight > 0
    arguments = DPOConfig(
        **common(spec, hyperparameters, seed=hyperparameters.seed),
        beta=hyperparameters.beta,
        loss_type=["sigmoid", "sft"] if weighted else ["sigmoid"],
        loss_weights=[1.0, hyperparameters.sft_weight] if weighted else None,
        precompute_ref_log_probs=True,
        max_length=None,
    )
    made = Dpo(
        model=load_model(),
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        data_collator=PairCollator(pad_id=tokenizer.pad_token_id, media=media),
    )
    made.lengths = [example.length for example in ordered]
    return made
