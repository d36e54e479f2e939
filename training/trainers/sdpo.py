"""SDPO (Hübotter et al. 2026): distils language feedback into the model, token by token.

The teacher is the same model, shown the response and its feedback as for a refinement: π_T(· | x, y, c, a_<t). The
student sees the prompt alone: π_θ(· | x, a_<t). Along the tokens of an answer a, which is y itself or its refinement,
the student learns the teacher's distribution of the next token:

    L = mean over the step's tokens of D(π_T(· | x, y, c, a_<t), π_θ(· | x, a_<t))

The teacher has no gradient. D is KL(π_T || π_θ) (forward), KL(π_θ || π_T) (reverse), or the Jensen-Shannon divergence.
Of a large vocabulary the teacher's `top_k` likeliest tokens are compared, and all others together as one more.
"""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import TrainingArguments
from trl.trainer.utils import disable_dropout_in_model

from training.batches import BESIDE_INPUTS, CritiquedCollator, Rows, blank_example, critiqued_row
from training.methods.sdpo import SdpoSettings, num_compared
from training.trainer_inputs import TrainerInputs
from training.trainers.step_means import StepMeansTrainer, answer_lengths, asking
from training.trainers.teacher import Teacher


class Sdpo(StepMeansTrainer):
    """Trains on rows that have a prompt for the student, a prompt for the teacher, and an answer."""

    def __init__(self, *, settings: SdpoSettings, **options: Any) -> None:
        self._settings = settings
        super().__init__(**options)
        disable_dropout_in_model(self.model)
        self._teacher = Teacher(self.model)
        self._keeps_logits = "logits_to_keep" in inspect.signature(self.model.forward).parameters

    def counts(self, batch: Mapping[str, Any]) -> torch.Tensor:
        """How many tokens the answers of a batch have: (1,)."""
        return answer_lengths(batch).sum()[None]

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> Any:
        """The passes of an optimiser step; also moves a teacher that follows the student."""
        if self._settings.teacher == "ema" and self.state.global_step:
            self._teacher.follow(decay=self._settings.ema_decay)
        return super().get_batch_samples(epoch_iterator, num_batches, device)

    def prepare(self, batches: Sequence[dict[str, Any]]) -> None:
        """Adds to each pass what the teacher says of its tokens."""
        with self._teacher.in_place(), asking(self.model_wrapped):
            for batch in batches:
                shown = self._prepare_inputs(batch.pop("teacher"))
                found = self._log_probs(self.model_wrapped, shown)
                # Of the logits, not of one head: a model with a second head (Janus) has more.
                likeliest, tokens = found.topk(num_compared(self._settings, found.shape[1]))
                batch["teacher_log_probs"], batch["teacher_tokens"] = likeliest, tokens

    def _log_probs(self, model: Any, batch: Mapping[str, Any]) -> torch.Tensor:
        """The distribution of the next token at each token of the answers: (tokens, vocabulary), row by row."""
        given = {name: value for name, value in batch.items() if name not in BESIDE_INPUTS}
        is_answer = batch["completion_mask"][:, 1:].bool()  # (rows, columns - 1): position t predicts token t + 1
        columns = is_answer.any(0).nonzero()[:, 0]
        if self._keeps_logits:
            logits = model(**given, use_cache=False, logits_to_keep=columns).logits
        else:
            logits = model(**given, use_cache=False).logits[:, columns]
        found: torch.Tensor = logits[is_answer[:, columns]].float().log_softmax(-1)
        return found

    def pass_terms(self, model: Any, inputs: dict[str, Any]) -> Sequence[torch.Tensor]:
        """The mean over the tokens of one pass."""
        log_probs = self._log_probs(model, inputs)
        if self._is_blank:
            # Weighs nothing, and takes part in what all ranks do together.
            losses, agrees = log_probs.amax(1), log_probs.new_zeros(1)
        else:
            losses, agrees = self._token_losses(log_probs, inputs["teacher_log_probs"], inputs["teacher_tokens"])
        self.measure({"teacher_agreement": agrees})
        return [losses.mean()]

    def _token_losses(
        self, log_probs: torch.Tensor, teacher: torch.Tensor, tokens: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """D at each token, and whether both find the same token likeliest, (tokens,) each.

        `log_probs` is (tokens, vocabulary); `teacher` has those of its likeliest `tokens`, (tokens, top_k) both.
        """
        student = log_probs.gather(1, tokens)
        if tokens.shape[1] < log_probs.shape[1]:
            teacher, student = with_rest(teacher), with_rest(student)
        agrees = log_probs.argmax(1) == tokens[:, 0]
        return divergence(teacher, student, kind=self._settings.divergence), agrees

    def method_state(self) -> dict[str, torch.Tensor]:
        """The weights of a teacher that moves."""
        return self._teacher.state() if self._settings.teacher == "ema" else {}

    def restore_method_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Goes on with a checkpoint's teacher."""
        self._teacher.restore(state)


def divergence(teacher: torch.Tensor, student: torch.Tensor, *, kind: str) -> torch.Tensor:
    """D of each token (tokens,) from log-probabilities (tokens, choices)."""
    if kind == "forward":
        return kl(teacher, student)
    if kind == "reverse":
        return kl(student, teacher)
    middle = torch.logaddexp(teacher, student) - torch.log(torch.tensor(2.0))
    return (kl(teacher, middle) + kl(student, middle)) / 2


def kl(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """KL(one || other) of each token (tokens,) from log-probabilities (tokens, choices)."""
    return (one.exp() * (one - other)).sum(-1)


def with_rest(log_probs: torch.Tensor) -> torch.Tensor:
    """Adds the log-probability of all other choices together: (tokens, choices) -> (tokens, choices + 1)."""
    # Rounding may leave nothing for the rest, whose logarithm must be finite.
    rest = (1 - log_probs.exp().sum(-1, keepdim=True)).clamp(min=1e-7)
    return torch.cat([log_probs, rest.log()], dim=-1)


def build(inputs: TrainerInputs) -> Sdpo:
    """The trainer of a run."""
    pad_id = inputs.tokenizer.pad_token_id
    # Before the model: under ZeRO-3 the arguments decide how `from_pretrained` places the weights.
    arguments = TrainingArguments(**inputs.arguments)
    trainer = Sdpo(
        settings=inputs.spec.settings,
        model=inputs.load_model(),
        args=arguments,
        train_dataset=Rows(inputs.shown, critiqued_row, blank=blank_example(pad_id)),
        processing_class=inputs.tokenizer,
        data_collator=CritiquedCollator(pad_id=pad_id, media=inputs.media),
    )
    inputs.give_lengths(trainer)
    return trainer
