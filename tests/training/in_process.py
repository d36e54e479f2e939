"""A method's trainer in this process, without DeepSpeed: the loss and the gradient of one step, and rows by hand."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import Mock, patch

import numpy as np
import torch
from transformers import PreTrainedModel

from omnialign.modeling.adapters import load_adapter
from training import trainer_inputs
from training.example_file import Examples, write_examples
from training.examples import Example
from training.media import BatchMedia
from training.methods import METHODS, complete
from training.spec_file import parse_spec
from training.trainers.kto import NOTHING, mismatched
from training.tuning import load_model, tokenizer_of


def kept(examples: Sequence[Example], folder: Path) -> Examples:
    """The examples as a run has them: from a file in `folder`."""
    write_examples(folder / "examples.arrow", examples)
    return Examples(folder / "examples.arrow")


def mismatched_answers(examples: Examples, *, max_length: int, seed: int) -> list[list[int]]:
    """The answer that kto puts behind each prompt, or []."""
    others = mismatched(examples, max_length=max_length, seed=seed)
    return [[] if other == NOTHING else examples[other].answers[0] for other in others]


def make_trainer(
    method: str,
    *,
    base: Path,
    examples: Sequence[Example],
    held_out: Sequence[Example] = (),
    folder: Path,
    rows_per_pass: int = 2,
    **document: Any,
) -> Any:
    """The trainer of a method on examples whose media are kept in `folder / "media"`; `document` goes into the spec."""
    spec = parse_spec(
        {
            "job": "projects/default/trainingJobs/j",
            "dataset": "projects/default/datasets/d",
            "base_model_dir": str(base),
            "output_dir": str(folder / "out"),
            "cache_dir": str(folder),
            **document,
        },
        method=method,
    )
    adapter = load_adapter(base)
    arguments = {
        "output_dir": str(folder / "out"),
        "per_device_train_batch_size": rows_per_pass,
        "remove_unused_columns": False,
        "report_to": [],
        "use_cpu": True,
    }
    found = examples if isinstance(examples, Examples) else kept([*examples, *held_out], folder)
    inputs = trainer_inputs.TrainerInputs(
        load_model=lambda: load_model(base),
        tokenizer=tokenizer_of(base, pad_id=adapter.pad_id, end_id=adapter.end_id),
        examples=found.select(np.arange(len(examples))),
        held_out=found.select(np.arange(len(examples), len(found))),
        media=BatchMedia(adapter, folder / "media"),
        spec=spec,
        hyperparameters=complete(spec, num_processes=1),
        watchdog=Mock(),
    )
    with (
        patch.object(trainer_inputs, "common_arguments", lambda spec, hyperparameters: arguments),
        patch("training.trainers.reference.prepare_deepspeed", lambda model, accelerator: model.eval()),
    ):
        return METHODS[method].build(inputs)


def move(model: PreTrainedModel, *, by: float = 0.02) -> None:
    """Changes what learns a little, so that policy and reference differ."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(by * torch.randn(parameter.shape, generator=generator))


def move_towards(model: PreTrainedModel, wanted: Sequence[torch.Tensor], *, by: float = 0.3) -> None:
    """Changes what learns so that these log-probabilities, of the model as it is, become larger."""
    torch.cat(list(wanted)).mean().backward()
    norm = gradient(model).norm()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad and parameter.grad is not None:
                parameter.add_(parameter.grad, alpha=by / float(norm))
    model.zero_grad()


def step(trainer: Any, passes: Sequence[Sequence[int]]) -> float:
    """The loss of an optimiser step whose passes take the rows of these indices; the model keeps its gradient."""
    collate, rows = trainer.data_collator, trainer.train_dataset
    made = [collate([rows[index] for index in taken]) for taken in passes]
    trainer.current_gradient_accumulation_steps = len(passes)
    batches, items = trainer.get_batch_samples(iter(made), len(made), torch.device("cpu"))
    return backward(trainer, batches, items=items)


def backward(trainer: Any, batches: Sequence[Any], *, items: torch.Tensor | None = None) -> float:
    """The loss of a step from its batches; the model keeps its gradient. `items` are what the step's loss averages."""
    trainer.model.train()
    trainer.model.zero_grad()
    total = 0.0
    for batch in batches:
        loss = trainer.compute_loss(trainer.model, batch, num_items_in_batch=items)
        if not trainer.model_accepts_loss_kwargs:
            loss = loss / len(batches)
        loss.backward()
        total += loss.item()
    return total


def gradient(model: PreTrainedModel) -> torch.Tensor:
    """The gradient of all that learns, as one row."""
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.requires_grad and p.grad is not None])


def row_inputs(example: Example, answer: Sequence[int], media: BatchMedia) -> dict[str, torch.Tensor]:
    """What a model is given of one prompt with one answer, without padding."""
    ids = [*example.prompt, *answer]
    made = media.inputs([{"media": example.media}], [ids])
    given = torch.tensor([ids])
    return {"input_ids": given, "attention_mask": torch.ones_like(given), **media.tensors(made, given)}


def token_scores(model: PreTrainedModel, example: Example, answer: Sequence[int], media: BatchMedia) -> torch.Tensor:
    """The log-probability of every token of the vocabulary at each place of an answer, from a row without padding.

    (tokens of the answer, vocabulary)
    """
    logits = model(**row_inputs(example, answer, media)).logits[0].float()
    start = len(example.prompt) - 1
    return logits[start : start + len(answer)].log_softmax(-1)


def log_probs(model: PreTrainedModel, example: Example, answer: Sequence[int], media: BatchMedia) -> torch.Tensor:
    """The log-probability of each token of an answer, (tokens,)."""
    return token_scores(model, example, answer, media)[torch.arange(len(answer)), torch.tensor(answer)]
