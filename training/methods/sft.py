"""Supervised fine-tuning: the negative log-likelihood of the answer, prompt excluded."""

from collections.abc import Callable, Sequence

from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trl import SFTConfig, SFTTrainer

from training.arguments import common
from training.collators import SftCollator, sft_row
from training.loop import DurableTrainer
from training.media import BatchMedia, name_media
from training.spec import Hyperparameters, Spec
from training.tokens import Example


class Sft(DurableTrainer, SFTTrainer):  # type: ignore[misc]
    """TRL's trainer on rows that are token ids already."""


def trainer(
    load_model: Callable[[], PreTrainedModel],
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Example],
    *,
    media: BatchMedia,
    spec: Spec,
    hyperparameters: Hyperparameters,
) -> Sft:
    """The trainer of a run. The model is loaded after the arguments exist: under ZeRO-3 they decide how."""
    rows = name_media([sft_row(e.prompt, e.answers[0]) for e in examples], examples)
    arguments = SFTConfig(
        **common(spec, hyperparameters, seed=hyperparameters.seed),
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
    )
    made = Sft(
        model=load_model(),
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        data_collator=SftCollator(pad_id=tokenizer.pad_token_id, media=media),
    )
    made.lengths = [example.length for example in examples]
    return made
