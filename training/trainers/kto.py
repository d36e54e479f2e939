"""KTO (Ethayarajh et al. 2024): answers that are good or bad, each weighed against a reference point.

L = λ_D (1 - σ(β (Δ - z))) for a good answer and λ_U (1 - σ(β (z - Δ))) for a bad one, with Δ = log π(y | x) -
log π_ref(y | x), averaged over the answers of the whole optimiser step. The reference point z is the mean of Δ over the
step's *mismatched* pairs, an answer to another prompt behind each prompt, and at least 0: it estimates KL(π || π_ref)
and has no gradient. β is `beta`. `sft_weight` w adds w · NLL of the good answers, averaged over the step's tokens. All
rows held out are one step.
"""

import hashlib
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import TrainingArguments

from omnialign.errors import FailedPrecondition
from training.batches import LabelledCollator, Rows, blank_example, labelled_row
from training.example_file import Examples
from training.examples import Example
from training.methods.kto import KtoSettings
from training.trainer_inputs import TrainerInputs
from training.trainers.reference import add_reference
from training.trainers.step_means import StepMeansTrainer, answer_lengths, answer_log_probs, asking

LOOK_AHEAD = 64
"""How many other answers are tried behind a prompt before it goes without a mismatched one."""
NOTHING = -1
"""Stands for the example whose answer is taken, where there is none."""
MOST_TO_DESIRABLE = 4 / 3
"""The largest ratio of λ_D n_D to λ_U n_U that the authors advise; the smallest is 1."""


class Kto(StepMeansTrainer):
    """Trains on rows that carry a label, a mismatched answer, and the reference's log-probabilities of both answers."""

    def __init__(self, *, beta: float, weights: tuple[float, float], sft_weight: float, **options: Any) -> None:
        self._beta, self._sft_weight = beta, sft_weight
        self._desirable_weight, self._undesirable_weight = weights
        self._reference_point = 0.0
        super().__init__(**options)

    def counts(self, batch: Mapping[str, Any]) -> torch.Tensor:
        """How many answers a batch has, and how many tokens its good ones have: (2,)."""
        lengths = answer_lengths(batch)
        return torch.stack([(lengths > 0).sum(), lengths[batch["desirable"]].sum()])

    def prepare(self, batches: Sequence[dict[str, Any]]) -> None:
        """Estimates the reference point of a step, before any of its passes is trained on."""
        if not self.is_evaluating:
            self._estimate(batches)

    def prepare_evaluation(self, batches: Iterator[dict[str, Any]]) -> None:
        """Estimates the reference point of all rows held out."""
        self._estimate(batches)

    def _estimate(self, batches: Iterable[dict[str, Any]]) -> None:
        found = torch.zeros(1, 2, dtype=torch.float64, device=self.args.device)
        with asking(self.model_wrapped):
            for batch in batches:
                found += self._mismatched(self._prepare_inputs(batch)).to(found.device)
        total, count = self.accelerator.gather(found).sum(0).tolist()
        self._reference_point = max(total / max(count, 1), 0.0)

    def _mismatched(self, batch: Mapping[str, Any]) -> torch.Tensor:
        """The sum of Δ over a batch's mismatched pairs, and their number: (2,)."""
        pairs = batch["mismatched"]
        ratios = answer_log_probs(self.model_wrapped, pairs).sum(1) - batch["ref_mismatched_logps"]
        is_pair = answer_lengths(pairs) > 0
        return torch.stack([ratios[is_pair].double().sum(), is_pair.double().sum()])

    def pass_terms(self, model: Any, inputs: dict[str, Any]) -> Sequence[torch.Tensor]:
        """The mean over the answers of one pass, and that over the tokens of its good ones."""
        log_probs, good = answer_log_probs(model, inputs).sum(1), inputs["desirable"]
        rewards, point = self._beta * (log_probs - inputs["ref_logps"]), self._beta * self._reference_point
        losses = torch.where(
            good,
            self._desirable_weight * (1 - torch.sigmoid(rewards - point)),
            self._undesirable_weight * (1 - torch.sigmoid(point - rewards)),
        )
        likelihood = log_probs[good].sum() / answer_lengths(inputs)[good].sum().clamp(min=1)
        self.measure(
            {
                "logps/desirable": log_probs[good],
                "logps/undesirable": log_probs[~good],
                "rewards/desirable": rewards[good],
                "rewards/undesirable": rewards[~good],
                "rewards/accuracies": (rewards > point) == good,
                "reference_point": torch.full_like(rewards, self._reference_point),
            }
        )
        return losses.mean(), -self._sft_weight * likelihood

    def means(self) -> dict[str, float]:
        """Also how far good answers are ahead of bad ones, in a step that has both."""
        found = super().means()
        if {"rewards/desirable", "rewards/undesirable"} <= found.keys():
            found["rewards/margins"] = found["rewards/desirable"] - found["rewards/undesirable"]
        return found


def balanced(settings: KtoSettings, *, good: int, bad: int) -> tuple[float, float]:
    """λ_D and λ_U. What is not given is set so that λ_D n_D is between λ_U n_U and 4/3 of it, as the authors advise."""
    desirable, undesirable = settings.desirable_weight or 1.0, settings.undesirable_weight or 1.0
    ratio = desirable * good / (undesirable * bad)
    wanted = min(max(ratio, 1.0), MOST_TO_DESIRABLE)
    desirable_is_free = not settings.desirable_weight and (ratio < wanted or settings.undesirable_weight)
    if desirable_is_free:
        desirable *= wanted / ratio
    elif not settings.undesirable_weight:
        undesirable *= ratio / wanted
    return desirable, undesirable


class LabelledRows(Rows):
    """Rows with a label and a mismatched answer."""

    def __init__(self, examples: Examples, others: NDArray[np.int64], *, blank: Example) -> None:
        """`others` are what `mismatched` gives."""
        super().__init__(examples, labelled_row, blank=blank)
        self._others = np.append(others, NOTHING)

    @property
    def identity(self) -> str:
        """Also of the mismatched answers."""
        return super().identity + hashlib.sha256(self._others.tobytes()).hexdigest()

    def __getitem__(self, index: int) -> dict[str, Any]:
        other = self._others[index]
        answer = self._examples[other].answers[0] if other != NOTHING else []
        return {**super().__getitem__(index), "mismatched_ids": answer}


def mismatched(examples: Examples, *, max_length: int, seed: int) -> NDArray[np.int64]:
    """For each example one with another prompt, whose answer behind this one's prompt is no longer than `max_length`.

    (examples,); NOTHING where none was found. The examples stand in a circle by the length of their answers, equal
    ones as the seed has it, and each takes the next answer that fits: of about the length of its own, and the same at
    every step, so that the reference scores it once.
    """
    draw, count = random.Random(seed), len(examples)
    prompts, hashes = examples.prompt_lengths, examples.prompt_hashes
    answers = examples.lengths - prompts
    circle = np.lexsort([np.array([draw.random() for _ in range(count)]), answers])
    found = np.full(count, NOTHING)
    for step in range(1, min(LOOK_AHEAD, count)):
        left = np.flatnonzero(found[circle] == NOTHING)
        mine, other = circle[left], circle[(left + step) % count]
        fits = (hashes[mine] != hashes[other]) & (prompts[mine] + answers[other] <= max_length)
        found[mine[fits]] = other[fits]
    return found


def require_both_labels(examples: Examples, *, dataset: str) -> tuple[int, int]:
    """The numbers of good and bad answers. Raises `FailedPrecondition` (LABELS_ONE_SIDED) if there is but one kind."""
    good = int((examples.values > 0).sum())
    bad = len(examples) - good
    if not good or not bad:
        kind = "good" if good else "bad"
        raise FailedPrecondition(
            f"all {len(examples)} answers of {dataset} are {kind}, and kto learns from the difference: add answers of "
            "the other kind, move kto.good_score or kto.bad_score, or use sft on good answers",
            reason="LABELS_ONE_SIDED",
            metadata={"dataset": dataset, "good": str(good), "bad": str(bad)},
        )
    return good, bad


def build(inputs: TrainerInputs) -> Kto:
    """The trainer of a run. Raises `FailedPrecondition` (LABELS_ONE_SIDED)."""
    good, bad = require_both_labels(inputs.examples, dataset=inputs.spec.dataset)
    # The reference pass takes the rows in this order; from short to long, its batches carry little padding.
    inputs, settings, pad_id = inputs.by_length(), inputs.hyperparameters, inputs.tokenizer.pad_token_id
    parts = (inputs.examples, inputs.held_out)  # no answer is taken from the one for the other
    learnt, held_out = (mismatched(part, max_length=settings.max_length, seed=settings.seed) for part in parts)
    held_out[held_out != NOTHING] += len(learnt)
    # Before the model: under ZeRO-3 the arguments decide how `from_pretrained` places the weights.
    arguments = TrainingArguments(**inputs.arguments)
    trainer = Kto(
        beta=settings.beta,
        weights=balanced(inputs.spec.settings, good=good, bad=bad),
        sft_weight=settings.sft_weight,
        model=inputs.load_model(),
        args=arguments,
        train_dataset=LabelledRows(inputs.shown, np.append(learnt, held_out), blank=blank_example(pad_id)),
        processing_class=inputs.tokenizer,
        data_collator=LabelledCollator(pad_id=pad_id, media=inputs.media),
    )
    inputs.give_lengths(trainer)
    add_reference(
        trainer,
        ("ref_logps", "ref_mismatched_logps"),
        score=lambda model, batch: [answer_log_probs(model, part).sum(1) for part in (batch, batch["mismatched"])],
        inputs=inputs,
    )
    return trainer
