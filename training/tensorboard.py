"""TensorBoard event files of a run: what it measures, by step, in `output_dir/tensorboard`.

Rank 0 writes them, from a thread of the writer's own. An attempt that goes on from a checkpoint adds a file, and marks
the steps after the checkpoint that an earlier attempt had made as replaced.
"""

from pathlib import Path
from typing import Any

from tensorboardX import SummaryWriter
from transformers import TrainerCallback
from transformers.trainer_callback import TrainerControl, TrainerState
from transformers.training_args import TrainingArguments

FOLDER = "tensorboard"
FLUSH_SECONDS = 10


class TensorBoard(TrainerCallback):  # type: ignore[misc]  # untyped in transformers
    """Writes the measures of steps and evaluations."""

    def __init__(self, output_dir: Path) -> None:
        self._folder = output_dir / FOLDER
        self._writer: SummaryWriter | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Opens a new file."""
        replaced = state.global_step + 1 if self._folder.is_dir() else None
        # Files are named by the second, and one of the same name would be overwritten.
        suffix = f".from-{state.global_step:08d}"
        self._writer = SummaryWriter(
            str(self._folder), purge_step=replaced, flush_secs=FLUSH_SECONDS, filename_suffix=suffix
        )

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """A step's measures are known; the summary at the end of training is none."""
        if logs and "loss" in logs:
            self._write(logs, step=state.global_step)

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """The rows held out are evaluated."""
        self._write(metrics or {}, step=state.global_step)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Closes the file."""
        if self._writer is not None:
            self._writer.close()

    def _write(self, measures: dict[str, float], *, step: int) -> None:
        for name, value in measures.items():
            if self._writer is not None and isinstance(value, int | float):
                self._writer.add_scalar(name, float(value), step)
