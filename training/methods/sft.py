"""Supervised fine-tuning: L = -log p(answer | prompt), averaged over the answers' tokens; the prompt has no loss."""

from collections.abc import Callable, Sequence
from typing import Any

from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trl import SFTConfig, SFTTrainer

from training.batches import IGNORED, SftCollator, blank_example, sft_row
from training.examples import Example
from training.loop import DurableTrainer, common_arguments
from training.media import BatchMedia, name_media
from training.spec import Hyperparameters, Spec
from training.watchdog import Watchdog


class Sft(DurableTrainer, SFTTrainer):  # type: ignore[misc]
    """TRL's trainer on rows that are token ids already."""

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """TRL's loss of one pass, averaged over the tokens of the whole step; nothing for a blank one."""
        if (inputs["labels"] != IGNORED).any():
            return super().compute_loss(model, inputs, *args, **kwargs)
        # A blank pass must use all weights, like those of the other ranks: gradients are reduced as they are made.
        return 0.0 * super().compute_loss(model, {**inputs, "labels": inputs["input_ids"]}, *args, **kwargs)


def build_trainer(
    load_model: Callable[[], PreTrainedModel],
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Example],
    *,
    media: BatchMedia,
    spec: Spec,
    hyperparameters: Hyperparameters,
    watchdog: Watchdog,
) -> Sft:
    """The trainer of a run."""
    shown = [*examples, blank_example(tokenizer.pad_token_id)]
    rows = name_media([sft_row(e.prompt, e.answers[0]) for e in shown], shown)
    # Before the model: under ZeRO-3 the arguments decide how `from_pretrained` places the weights.
    arguments = SFTConfig(
        **common_arguments(spec, hyperparameters),
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
    )
    trainer = Sft(
        model=load_model(),
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        data_collator=SftCollator(pad_id=tokenizer.pad_token_id, media=media),
    )
    trainer.lengths = [example.length for example in examples]
    return trainer
