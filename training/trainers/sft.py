"""Supervised fine-tuning: L = -log p(answer | prompt), averaged over the answers' tokens; the prompt has no loss."""

from typing import Any

from datasets import Dataset
from trl import SFTConfig, SFTTrainer

from training.batches import IGNORED, SftCollator, blank_example, sft_row
from training.loop import DurableTrainer, TrainerInputs
from training.media import name_media


class Sft(DurableTrainer, SFTTrainer):  # type: ignore[misc]
    """TRL's trainer on rows that are token ids already."""

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """TRL's loss of one pass, averaged over the tokens of the whole step; nothing for a blank one."""
        if (inputs["labels"] != IGNORED).any():
            return super().compute_loss(model, inputs, *args, **kwargs)
        # A blank pass must use all weights, like those of the other ranks: gradients are reduced as they are made.
        return 0.0 * super().compute_loss(model, {**inputs, "labels": inputs["input_ids"]}, *args, **kwargs)


def build(inputs: TrainerInputs) -> Sft:
    """The trainer of a run."""
    pad_id = inputs.tokenizer.pad_token_id
    shown = [*inputs.examples, blank_example(pad_id)]
    rows = name_media([sft_row(e.prompt, e.answers[0]) for e in shown], shown)
    # Before the model: under ZeRO-3 the arguments decide how `from_pretrained` places the weights.
    arguments = SFTConfig(
        **inputs.arguments,
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
    )
    trainer = Sft(
        model=inputs.load_model(),
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        processing_class=inputs.tokenizer,
        data_collator=SftCollator(pad_id=pad_id, media=inputs.media),
    )
    trainer.lengths = [example.length for example in inputs.examples]
    return trainer
