"""Supervised fine-tuning: L = -log p(answer | prompt), averaged over the answers' tokens; the prompt has no loss."""

from collections.abc import Callable, Sequence

from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trl import SFTConfig, SFTTrainer

from training.batches import SftCollator, sft_row
from training.examples import Example
from training.loop import DurableTrainer, common_arguments
from training.media import BatchMedia, name_media
from training.spec import Hyperparameters, Spec
from training.watchdog import Watchdog


class Sft(DurableTrainer, SFTTrainer):  # type: ignore[misc]
    """TRL's trainer on rows that are token ids already."""


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
    rows = name_media([sft_row(e.prompt, e.answers[0]) for e in examples], examples)
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
