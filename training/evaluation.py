"""Evaluation while a run trains: the rows held out, the best model so far, and early stopping.

Every few steps, and after the last one, the rows held out are evaluated as if they were learnt: with the method's own
loss, in the steps, passes and ranks of training, but without a gradient. The best model is that of the lowest loss. The
loss decides and not an accuracy: every method has one, and on few rows it tells apart models that order as many pairs
rightly. The best model is written when it is found, and it is what the run delivers.

A checkpoint holds what was known when it was written, so a run that goes on from it comes to the same end. The model
that a checkpoint knows as the best is kept as long as the checkpoint is.
"""

import json
import logging
import math
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from transformers import TrainerCallback
from transformers.trainer_callback import TrainerControl, TrainerState
from transformers.training_args import TrainingArguments

from training import distributed
from training.files import replace_folder, write_atomically
from training.progress import Progress
from training.spec import Evaluation
from training.watchdog import Phase, Watchdog

STATE = "evaluation.json"
"""The part of a checkpoint that says which model was the best."""
NUM_EVALUATIONS = 10
"""In a run, unless the spec says after how many steps each."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Standing:
    """What the evaluations of a run have shown so far."""

    best_step: int = 0
    """0 before there is one."""
    since_best: int = 0
    """Evaluations after that of the best step."""
    measures: dict[str, float] = field(default_factory=dict)
    """Of the best step, by their names in reports."""

    @property
    def best_loss(self) -> float:
        """The lowest loss so far."""
        return self.measures.get("eval/loss", math.inf)

    def after(self, step: int, measures: dict[str, float]) -> "Standing":
        """The standing after one more evaluation; a loss that is no number is not the best."""
        if measures["eval/loss"] < self.best_loss:
            return Standing(best_step=step, measures=measures)
        return Standing(best_step=self.best_step, since_best=self.since_best + 1, measures=self.measures)


class Evaluated(Protocol):
    """A trainer, as far as it is evaluated."""

    state: TrainerState

    def evaluate_held_out(self) -> dict[str, float]:
        """Loss and measures of the held-out rows, the same on every rank."""

    def evaluation_files(self) -> Mapping[str, bytes]:
        """Further files that a model gets from the last evaluation."""


class WriteModel(Protocol):
    """Writes the model in training to a folder; all ranks take part."""

    def __call__(self, *, to: Path, files: Mapping[str, bytes]) -> None:
        """Raises `FailedPrecondition` (WEIGHTS_NOT_FINITE) instead of writing a broken model."""


class Evaluator(TrainerCallback):  # type: ignore[misc]  # untyped in transformers
    """Says when a run is evaluated, and does it. All ranks have one and call it alike."""

    def __init__(
        self,
        settings: Evaluation,
        *,
        folder: Path,
        write_model: WriteModel,
        progress: Progress,
        watchdog: Watchdog,
        write_samples: Callable[[int], None] = lambda step: None,
    ) -> None:
        """`folder` is for the best models; `write_samples` writes sample answers after a step, on all ranks."""
        self._settings, self._folder, self._write_model = settings, folder, write_model
        self._write_samples = write_samples
        self._progress, self._watchdog = progress, watchdog
        self._standing = Standing()

    @property
    def is_over(self) -> bool:
        """Whether the loss has not become lower for so long that the run is to end."""
        return 0 < self._settings.patience <= self._standing.since_best

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Has the trainer evaluate when it is time."""
        every = self._settings.every_steps or math.ceil(state.max_steps / NUM_EVALUATIONS)
        control.should_evaluate = state.global_step % every == 0 or state.global_step == state.max_steps

    def evaluate(self, trainer: Evaluated) -> dict[str, float]:
        """Evaluates a trainer's rows and keeps its model if it is the best; returns the measures by their names."""
        step = trainer.state.global_step
        with self._watchdog.during(Phase.EVALUATE):
            measures = {f"eval/{name}": value for name, value in trainer.evaluate_held_out().items()}
            self._watchdog.beat()
            self._write_samples(step)
        self._standing = self._standing.after(step, measures)
        if self._standing.best_step == step:
            with self._watchdog.during(Phase.SAVE):
                self._write_model(to=self._best(step), files=trainer.evaluation_files())
        self._progress.evaluated(step, measures, best_step=self._standing.best_step, stopped_early=self.is_over)
        if self.is_over:
            log.info("no lower loss than that of step %d: the run ends early", self._standing.best_step)
        return measures

    def write_state(self, checkpoint: Path) -> None:
        """Adds to a checkpoint what is known."""
        write_atomically(checkpoint / STATE, json.dumps(asdict(self._standing)).encode())

    def prune(self, checkpoints: Path) -> None:
        """Removes the models that were the best of no checkpoint that is left, and are not now."""
        known = [self._standing, *map(_read, checkpoints.glob(f"step-*/{STATE}"))]
        needed = {self._best(standing.best_step) for standing in known}
        for folder in set(self._folder.glob("step-*")) - needed:
            shutil.rmtree(folder, ignore_errors=True)

    def restore(self, checkpoint: Path | None) -> None:
        """Goes on from what a checkpoint says; without one, nothing is known and nothing is kept."""
        found = Standing()
        if checkpoint is not None and (checkpoint / STATE).is_file():
            found = _read(checkpoint / STATE)
        if found.best_step and not distributed.on_main(self._best(found.best_step).is_dir):
            log.warning("the best model so far, of step %d, is gone: the next evaluation begins anew", found.best_step)
            found = Standing()
        self._standing = found
        if checkpoint is None and distributed.rank() == 0:
            shutil.rmtree(self._folder, ignore_errors=True)
        distributed.barrier()
        if found.best_step:
            self._note_best()

    def deliver(self, to: Path) -> bool:
        """Makes the best model the finished one. False if there is none. All ranks take part."""
        best = self._standing.best_step
        if not best:
            return False
        self._note_best()
        if distributed.rank() == 0:
            replace_folder(self._best(best), to)
            shutil.rmtree(self._folder, ignore_errors=True)
        distributed.barrier()
        log.info("the model is that of step %d; its loss on the rows held out is %.4g", best, self._standing.best_loss)
        return True

    def _note_best(self) -> None:
        found = self._standing
        self._progress.evaluated(
            found.best_step, found.measures, best_step=found.best_step, stopped_early=self.is_over, is_new=False
        )

    def _best(self, step: int) -> Path:
        return self._folder / f"step-{step:08d}"


def _read(path: Path) -> Standing:
    return Standing(**json.loads(path.read_bytes()))
