"""What every method's trainer does alike: durable checkpoints, a stable data order, stopping, reporting.

A method's trainer is a `DurableTrainer`, and adds its loss and its columns only.
"""

import logging
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import TrainerControl, TrainerState
from transformers.training_args import TrainingArguments

from omnialign.errors import FailedPrecondition
from training import checkpoint, distributed, lora, metrics
from training.batch_order import BatchOrder, PromptOrder
from training.evaluation import Evaluator
from training.progress import require_finite
from training.run_context import RunContext
from training.tensorboard import TensorBoard
from training.trainer_inputs import NEVER
from training.watchdog import Phase

METHOD_STATE = "method.safetensors"
"""The part of a checkpoint that only the method reads."""

log = logging.getLogger(__name__)


class DurableTrainer(Trainer):
    """Checkpoints atomically, and orders the data by `BatchOrder`. Set `lengths` and `context` before training.

    The dataset has the rows of `lengths`, those of `held_out_lengths`, and a blank one.
    """

    lengths: NDArray[np.int64]
    """Tokens of each example to learn from, (examples,)."""
    held_out_lengths: NDArray[np.int64] = np.empty(0, dtype=np.int64)
    """Tokens of each example to evaluate, (examples held out,)."""
    context: RunContext
    control: TrainerControl
    evaluator: Evaluator | None = None
    """Evaluates the rows held out, if there are any."""
    _order: BatchOrder | PromptOrder
    _is_blank = False
    """Whether the pass at hand holds the blank row, which no metric is to count."""
    _total_train_tokens: float
    """Tokens of all rows that were learnt from so far, padding excluded."""
    checkpoint_border = 1
    """Every how many steps the run can be checkpointed."""

    def saved_weights(self, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The part of all weights that is the finished model."""
        return state

    def close(self) -> None:
        """Frees what the method holds outside of this process."""

    def _prepare_for_training(self, *args: Any, **kwargs: Any) -> Any:
        distributed.restore_what_learns()
        prepared = super()._prepare_for_training(*args, **kwargs)
        if self.is_deepspeed_enabled:
            distributed.keep_gradient_norm(self.model_wrapped)
            distributed.reduce_over_several(self.model_wrapped)
            distributed.checkpoint_what_learns(self.model_wrapped)
        distributed.gather_unequal_rows(self.accelerator, is_blank=lambda: self._is_blank)
        return prepared

    def get_train_dataloader(self) -> DataLoader[Any]:
        """This rank's batches. Accelerate's own loader would share them out again, and repeat some to fill up."""
        self._order = self._order_of(self.lengths, blank=len(self.lengths) + len(self.held_out_lengths))
        return DataLoader(self.train_dataset, batch_sampler=self._order, collate_fn=self.data_collator)

    def held_out_steps(self) -> Iterator[list[list[int]]]:
        """This rank's rows by pass and step, as if the rows held out were learnt; always in the same order."""
        first = len(self.lengths)
        for step in self._order_of(self.held_out_lengths).steps():
            yield [[first + row for row in ranks[distributed.rank()]] for ranks in step]

    def _order_of(self, lengths: NDArray[np.int64], *, blank: int = 0) -> BatchOrder:
        return BatchOrder(
            lengths,
            batch_size=self.args.train_batch_size * self.args.gradient_accumulation_steps * distributed.world_size(),
            num_passes=self.args.gradient_accumulation_steps,
            num_ranks=distributed.world_size(),
            rank=distributed.rank(),
            seed=self.args.seed,
            blank=blank,
        )

    def method_state(self) -> dict[str, torch.Tensor]:
        """What a method must keep over a restart beside weights and optimiser, the same on every rank."""
        return {}

    def restore_method_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Goes on from what `method_state` gave when the checkpoint was written."""

    def evaluate_held_out(self) -> dict[str, float]:
        """Loss and measures of the rows held out, the same on every rank."""
        raise NotImplementedError

    def evaluation_files(self) -> Mapping[str, bytes]:
        """Further files that a model gets from the last evaluation."""
        return {}

    def _evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        # The trainer comes here after it has logged a step and before it saves: a checkpoint knows the evaluation.
        assert self.evaluator is not None
        measures = self.evaluator.evaluate(self)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, measures)
        if self.evaluator.is_over:
            self.control.should_training_stop = self.control.should_save = True
        return measures

    def _run_epoch(self, *args: Any, epoch: int, **kwargs: Any) -> None:
        # The trainer does not find the order behind what skips the batches of before a restart.
        self._order.set_epoch(epoch)
        super()._run_epoch(*args, epoch=epoch, **kwargs)

    def _get_output_dir(self, trial: Any) -> str:
        # The trainer writes to `<this>/checkpoint-<step>`.
        return str(self._staging_dir())

    def _staging_dir(self) -> Path:
        return checkpoint.staging_dir(Path(self.args.output_dir), step=self.state.global_step)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        with self.context.watchdog.during(Phase.SAVE):
            require_finite_weights(self.model, step=self.state.global_step)
            self._write_checkpoint(model, trial)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Writes the weights beside DeepSpeed's part of a checkpoint; those of a LoRA alone if there is one."""
        if not lora.lora_layers(self.model):
            super().save_model(output_dir, _internal_call)
            return
        weights = distributed.what_learns(self.model_wrapped)
        if distributed.rank() == 0:
            lora.write_lora(
                self.model, self.saved_weights(weights), base="", to=Path(output_dir or self.args.output_dir)
            )

    def _write_checkpoint(self, model: Any, trial: Any) -> None:
        # 1. All ranks write their parts.
        super()._save_checkpoint(model, trial)
        if distributed.rank() == 0:
            self._write_states(self._staging_dir() / f"checkpoint-{self.state.global_step}")
        # 2. Once every part is there, rank 0 turns them into a checkpoint.
        distributed.barrier()
        if distributed.rank() == 0:
            staged = next(self._staging_dir().glob("checkpoint-*"))
            root, step = Path(self.args.output_dir), self.state.global_step
            checkpoint.commit(staged, root, step=step, shape=self.context.shape())
            if self.evaluator:
                self.evaluator.prune(root)
        # 3. No rank goes on before that, lest it write into the folder that is being renamed. What is left is the
        #    staging folder of nodes that do not share rank 0's: a checkpoint needs a folder that all nodes share.
        distributed.barrier()
        shutil.rmtree(self._staging_dir(), ignore_errors=True)

    def _write_states(self, folder: Path) -> None:
        """Adds to a checkpoint what the method and the evaluations must keep."""
        if kept := self.method_state():
            save_file(kept, folder / METHOD_STATE)
        if self.evaluator:
            self.evaluator.write_state(folder)


class ProgressCallback(TrainerCallback):  # type: ignore[misc]  # untyped in transformers
    """Feeds progress and watchdog, refuses a loss that is not finite, and ends the loop on request."""

    def __init__(self, context: RunContext, *, checkpoint_border: int = 1) -> None:
        self._context, self._border = context, checkpoint_border
        self._saved_at = time.monotonic()
        self.stopped = False

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Starts the clocks."""
        self._context.progress.begin(step=state.global_step, total_steps=state.max_steps)
        self._saved_at = time.monotonic()
        self._context.watchdog.enter(Phase.STEP)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Beats, and stops with a checkpoint when any rank was asked to."""
        self._context.watchdog.beat()
        if state.global_step % self._border and state.global_step < state.max_steps:
            control.should_save = False  # a run could not go on from here
            return
        # All ranks must agree, step by step: one that stopped alone would leave the others in their next collective.
        requested = distributed.any_rank(self._context.progress.stop_requested.is_set())
        if requested and state.global_step < state.max_steps:
            self.stopped = True
            control.should_save = control.should_training_stop = True
        # Rank 0's clock decides: a rank that saved alone would wait for the others for ever.
        if args.save_steps == NEVER and distributed.any_rank(distributed.rank() == 0 and self._checkpoint_is_due()):
            control.should_save = True

    def _checkpoint_is_due(self) -> bool:
        return time.monotonic() - self._saved_at >= self._context.spec.checkpoint_interval_seconds

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """A checkpoint is complete; the time to the next one begins."""
        self._saved_at = time.monotonic()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Passes on a step's metrics. Raises `FailedPrecondition` (LOSS_NOT_FINITE)."""
        metrics = {k: float(v) for k, v in (logs or {}).items() if isinstance(v, int | float)}
        if "loss" in metrics:
            require_finite(metrics, step=state.global_step)
            tokens = int(metrics.pop("num_tokens", 0))
            self._context.progress.step(step=state.global_step, metrics=metrics, tokens=tokens)


def require_finite_weights(model: torch.nn.Module, *, step: int) -> None:
    """Raises `FailedPrecondition` (WEIGHTS_NOT_FINITE) on every rank when one holds a NaN or an infinite weight.

    Loss and gradient of the last step cannot show what its update did to the weights.
    """
    # Under ZeRO-3 a parameter is empty between steps, and each rank holds a shard of it.
    shards = ((name, getattr(parameter, "ds_tensor", parameter)) for name, parameter in model.named_parameters())
    broken = next((name for name, shard in shards if not torch.isfinite(shard).all()), "")
    if distributed.any_rank(bool(broken)):
        where = broken or "a shard of another process"
        raise FailedPrecondition(
            f"{where} is not finite after step {step}, and the model is not saved: lower learning_rate or check the "
            "data",
            reason="WEIGHTS_NOT_FINITE",
            metadata={"weight": where, "step": str(step)},
        )


def run(trainer: DurableTrainer, context: RunContext) -> bool:
    """Trains from the newest checkpoint, if any. False when the run was stopped before its end."""
    progress = ProgressCallback(context, checkpoint_border=trainer.checkpoint_border)
    trainer.context = context
    trainer.add_callback(progress)
    if trainer.evaluator:
        trainer.add_callback(trainer.evaluator)
    if exporter := metrics.start_exporter(method=context.spec.method, model=context.spec.base_model_dir.name):
        trainer.add_callback(exporter)
    if distributed.rank() == 0:
        trainer.add_callback(TensorBoard(context.spec.output_dir))
    root = Path(trainer.args.output_dir)
    # Rank 0 alone reads and checks the files, and all ranks go on from the step that it found.
    found = distributed.on_main(lambda: checkpoint.newest(root, shape=context.shape()))
    if distributed.any_rank(found is not None and not found.is_dir()):
        log.warning("%s is not on every node, and the run begins again: checkpoints need a shared folder", found)
        found = None
    if found is not None:
        log.info("going on from %s", found.name)
        trainer._total_train_tokens = tokens_at(found)
        if (kept := found / METHOD_STATE).is_file():
            trainer.restore_method_state(load_file(kept))
    if trainer.evaluator:
        trainer.evaluator.restore(found)
        if trainer.evaluator.is_over:  # it ended early, and was interrupted before its model was delivered
            return True
    context.watchdog.enter(Phase.RESTORE)
    try:
        trainer.train(resume_from_checkpoint=str(found) if found else None)
    finally:
        trainer.close()
    return not progress.stopped


def tokens_at(folder: Path) -> int:
    """Tokens that a run had learnt from when it wrote a checkpoint."""
    history = TrainerState.load_from_json(str(folder / TRAINER_STATE_NAME)).log_history
    return int(next((entry["num_tokens"] for entry in reversed(history) if "num_tokens" in entry), 0))
