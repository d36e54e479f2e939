"""Losses whose terms are averaged over a whole optimiser step, however it is cut into ranks and passes."""

import contextlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from trl.trainer.utils import FusedCausalLMOutput

from training import distributed, fused_lm_head
from training.batches import BESIDE_INPUTS, MEDIA_ROWS
from training.loop import DurableTrainer
from training.packing import IGNORED


class StepMeansTrainer(DurableTrainer):
    """Weighs passes so that everything that a loss is averaged over counts alike over a whole step.

    A method says what that is in `counts`, and what it averages over a pass in `pass_terms`.
    """

    outputs: tuple[str, ...] = ("log_probs",)
    """What the method reads of each token; see `trl.trainer.utils.add_fused_lm_head`."""
    is_evaluating = False
    """Whether the passes at hand are of rows held out."""
    _in_step: torch.Tensor
    """`counts` of the passes of all ranks together."""

    def __init__(self, **options: Any) -> None:
        self._sums = _no_sums()
        self._total_train_tokens = 0.0
        super().__init__(**options)
        fused_lm_head.add_head(self.model, outputs=self.outputs)
        # The loss is that of a pass, already weighted: the trainer is to average over passes, and over nothing else.
        self.model_accepts_loss_kwargs = False

    def counts(self, batch: Mapping[str, Any]) -> torch.Tensor:
        """How many of each thing that a term is averaged over a batch holds, (terms,); zeros for a blank one."""
        raise NotImplementedError

    def pass_terms(self, model: Any, inputs: dict[str, Any]) -> Sequence[torch.Tensor]:
        """The terms whose sum is the loss, each averaged over the pass; 0 for one that the pass has nothing of."""
        raise NotImplementedError

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> Any:
        """The passes of an optimiser step; also counts what the passes of all ranks hold together."""
        batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        self._begin(batches, device)
        return batches, items

    def _begin(self, batches: Sequence[dict[str, Any]], device: torch.device) -> None:
        counted = torch.stack([self.counts(batch) for batch in batches]).sum(0, keepdim=True)  # (1, terms)
        self._in_step = self.accelerator.gather(counted.to(device)).sum(0)
        self.prepare(batches)

    def prepare(self, batches: Sequence[dict[str, Any]]) -> None:
        """What a method finds out of a step's passes before any of them has a loss."""

    def prepare_evaluation(self, batches: Iterator[dict[str, Any]]) -> None:
        """What a method finds out of all rows held out before any of them has a loss."""

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """The loss of one pass, in which everything counted has the same weight as in every other pass of the step."""
        # A trainer averages over a pass, and that over passes and ranks. A pass of few pairs or tokens would count as
        # much as one of many, so each is weighted by its share of the step's.
        passes = self.current_gradient_accumulation_steps * distributed.world_size()
        held, terms = self._terms(model, inputs)
        # Nothing of a term in the whole step: its terms are 0.
        loss = (terms * held * passes / self._in_step.clamp(min=1)).sum()
        self._total_train_tokens += float(self.accelerator.gather(inputs["attention_mask"].sum()).sum())
        return loss

    def _terms(self, model: Any, inputs: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        """Over how many each term of a pass is averaged, and the terms: (terms,) both."""
        held = self.counts(inputs).to(self._in_step.device)
        self._is_blank = not held.any()
        if self._is_blank:
            # A blank pass weighs nothing but must use all weights of the model, like those of the other ranks:
            # gradients are reduced as they are made.
            inputs = {**inputs, "completion_mask": inputs["attention_mask"]}
        terms = torch.stack(list(self.pass_terms(model, inputs)))
        self._is_blank = False
        return held, terms

    def evaluate_held_out(self) -> dict[str, float]:
        """Loss and measures of the rows held out, each term averaged over all of them; the same on every rank."""
        learnt, self._sums = self._sums, _no_sums()
        self.is_evaluating = True
        self.prepare_evaluation(batch for step in self._held_out_batches() for batch in step)
        found = torch.zeros(2, 1, dtype=torch.float64, device=self.args.device)  # sums of the terms, and what they hold
        for batches in self._held_out_batches():
            self._begin(batches, self.args.device)
            with asking(self.model_wrapped), self.compute_loss_context_manager():
                for batch in batches:
                    held, terms = self._terms(self.model_wrapped, self._prepare_inputs(batch))
                    found = found + torch.stack([terms * held, held]).double()
        sums, held = self.accelerator.gather(found[None]).sum(0)
        measures = {"loss": float((sums / held.clamp(min=1)).sum()), **self.means()}
        self._sums, self.is_evaluating = learnt, False
        return measures

    def _held_out_batches(self) -> Iterator[list[dict[str, Any]]]:
        """This rank's passes of the rows held out, step by step."""
        for passes in self.held_out_steps():
            self.context.watchdog.beat()
            yield [self.data_collator([self.train_dataset[row] for row in rows]) for rows in passes]

    def measure(self, measures: Mapping[str, torch.Tensor]) -> None:
        """Adds a pass's measures over all ranks, each (rows,); a blank pass adds none."""
        rows = [values.detach().float() for values in measures.values()]
        own = torch.stack([torch.stack([found.sum(), found.new_tensor(len(found))]) for found in rows])
        totals = self.accelerator.gather(own).view(-1, *own.shape).sum(0).cpu()  # (measures, 2), as `own` is
        for name, found in zip(measures, totals, strict=True):
            self._sums[name] = self._sums[name] + found

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Logs a step, its measures averaged over its rows."""
        means = self.means()
        self._sums.clear()
        super().log({**logs, **means, "num_tokens": self._total_train_tokens}, *args, **kwargs)

    def means(self) -> dict[str, float]:
        """The measures of the step so far, averaged over its rows."""
        return {name: float(total / count) for name, (total, count) in self._sums.items() if count}


def _no_sums() -> dict[str, torch.Tensor]:
    """The sum of each measure, and the number of its rows: (2,)."""
    return defaultdict(lambda: torch.zeros(2))


@contextlib.contextmanager
def asking(model: torch.nn.Module) -> Iterator[None]:
    """Within it, the model in training is asked and does not learn: no gradient, no dropout."""
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train()


def labelled_inputs(batch: Mapping[str, Any]) -> dict[str, Any]:
    """What a model with a fused head is given of a batch, whose answers have the labels."""
    given = {name: value for name, value in batch.items() if name not in BESIDE_INPUTS}
    labels = batch["input_ids"].masked_fill(batch["completion_mask"] == 0, IGNORED)
    return {**given, "labels": labels, "media_rows": batch.get(MEDIA_ROWS)}


def scored_answers(model: Any, batch: Mapping[str, Any]) -> FusedCausalLMOutput:
    """What a model says of the answers' tokens in a batch, (rows, columns - 1) each; zero elsewhere."""
    found: FusedCausalLMOutput = model(**labelled_inputs(batch), use_cache=False, fused_lm_head=True)
    return found


def answer_log_probs(model: Any, batch: Mapping[str, Any]) -> torch.Tensor:
    """log π(token | what precedes it) of the answers' tokens in a batch: (rows, columns - 1), zero elsewhere."""
    found: torch.Tensor = scored_answers(model, batch).log_probs
    return found


def answer_lengths(batch: Mapping[str, Any]) -> torch.Tensor:
    """Tokens of each answer of a batch: (rows,)."""
    lengths: torch.Tensor = batch["completion_mask"][:, 1:].sum(1)
    return lengths
