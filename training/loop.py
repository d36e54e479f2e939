"""What every method's trainer does alike: durable checkpoints, a stable data order, stopping, and telling of itself.

`DurableTrainer` goes in front of a TRL trainer in a class's bases; the methods add their loss and their columns only.
"""

import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast, Trainer, TrainerCallback
from transformers.trainer_callback import TrainerControl, TrainerState
from transformers.training_args import TrainingArguments

from training import checkpoint, distributed, metrics
from training.progress import Progress, require_finite
from training.sampler import LengthSampler
from training.spec import Spec
from training.watchdog import Watchdog

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Companions:
    """Who goes along with a training loop."""

    spec: Spec
    progress: Progress
    watchdog: Watchdog
    method: str

    def shape(self) -> dict[str, int | str]:
        """What a run must share with a checkpoint to go on from it."""
        return {
            "method": self.method,
            "num_processes": distributed.world_size(),
            "zero_stage": self.spec.distribution.zero_stage,
        }


class DurableTrainer(Trainer):
    """Checkpoints atomically and orders the data by `LengthSampler`. Set `lengths` and `companions` before training."""

    lengths: list[int]
    companions: Companions

    def _get_train_sampler(self, train_dataset: Any = None) -> LengthSampler:
        batch_size = self.args.train_batch_size * self.args.gradient_accumulation_steps * distributed.world_size()
        return LengthSampler(self.lengths, batch_size=batch_size, seed=self.args.seed)

    def _get_output_dir(self, trial: Any) -> str:
        # The trainer writes to `<this>/checkpoint-<step>`.
        return str(self._staging())

    def _staging(self) -> Path:
        return checkpoint.staging_dir(Path(self.args.output_dir), step=self.state.global_step)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        # TRL's own override writes a model card first, which needs a network and says nothing here.
        Trainer._save_checkpoint(self, model, trial)
        distributed.barrier()
        if distributed.rank() == 0:
            staged = next(self._staging().glob("checkpoint-*"))
            root, step = Path(self.args.output_dir), self.state.global_step
            checkpoint.commit(staged, root, step=step, shape=self.companions.shape())
        distributed.barrier()
        # Where nodes share no folder, the other nodes' parts are of no use to anyone: checkpoints need a shared one.
        shutil.rmtree(self._staging(), ignore_errors=True)


class Follower(TrainerCallback):  # type: ignore[misc]
    """Feeds progress and watchdog, refuses a loss that is no number, and ends the loop when asked to."""

    def __init__(self, companions: Companions) -> None:
        self._companions = companions
        self.stopped = False

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Starts the clocks."""
        self._companions.progress.begin(step=state.global_step, total_steps=state.max_steps)
        self._companions.watchdog.start()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Beats, and stops with a checkpoint when any rank was asked to."""
        self._companions.watchdog.beat()
        if (
            distributed.any_rank(self._companions.progress.stop_requested.is_set())
            and state.global_step < state.max_steps
        ):
            self.stopped = True
            control.should_save = control.should_training_stop = True

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Passes a step's measures on. Raises `FailedPrecondition` (LOSS_NOT_FINITE)."""
        metrics = {k: float(v) for k, v in (logs or {}).items() if isinstance(v, int | float)}
        if "loss" in metrics:
            require_finite(metrics, step=state.global_step)
            tokens = int(metrics.pop("num_tokens", 0))
            self._companions.progress.step(step=state.global_step, metrics=metrics, tokens=tokens)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Stops the watch."""
        self._companions.watchdog.stop()


def run(trainer: DurableTrainer, companions: Companions) -> bool:
    """Trains from the newest checkpoint, if any. False when the run was stopped before its end."""
    follower = Follower(companions)
    trainer.companions = companions
    trainer.add_callback(follower)
    if meter := metrics.exported(method=companions.method, model=companions.spec.base_model_dir.name):
        trainer.add_callback(meter)
    root = Path(trainer.args.output_dir)
    found = checkpoint.newest(root, shape=companions.shape()) if root.is_dir() else None
    if distributed.any_rank(found is None):
        found = None  # all ranks go on from the same step, or none does
    if found is not None:
        log.info("going on from %s", found.name)
    trainer.train(resume_from_checkpoint=str(found) if found else None)
    return not follower.stopped


def tokenizer_of(folder: Path, *, pad_id: int, end_id: int) -> PreTrainedTokenizerFast:
    """The tokenizer in the shape that trainers want to see; nothing is tokenised with it.

    Never a processor: with one, TRL takes over the reading of pictures, and knows no other medium.
    """
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(pad_id)
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(end_id)
    return tokenizer
