"""The reference: the log-probabilities that the model gives answers before its first step.

They are computed once, while the model is still the start, so no second model stays in memory. After a restart the
model is the start again until its checkpoint is restored, which comes later.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader
from trl.models import prepare_deepspeed
from trl.models.utils import disable_gradient_checkpointing
from trl.trainer.utils import disable_dropout_in_model

from training.batches import Rows
from training.loop import DurableTrainer
from training.watchdog import Phase, Watchdog

Score = Callable[[Any, dict[str, Any]], Sequence[torch.Tensor]]
"""From a model and a batch to log-probabilities, each (rows,)."""


def add_reference(trainer: DurableTrainer, columns: Sequence[str], *, score: Score, watchdog: Watchdog) -> None:
    """Adds what `score` gives each row of the trainer's data as a column.

    From here on the policy has no dropout, as the reference has none: their ratios would be noise.
    """
    disable_dropout_in_model(trainer.model)
    rows: Rows = trainer.train_dataset
    loader = DataLoader(rows, batch_size=trainer.args.train_batch_size, collate_fn=trainer.data_collator, shuffle=False)
    engine = prepare_deepspeed(trainer.model, trainer.accelerator)
    found: list[list[float]] = [[] for _ in columns]
    watchdog.enter(Phase.REFERENCE)
    with (
        torch.no_grad(),
        trainer.accelerator.autocast(),
        disable_gradient_checkpointing(trainer.model, trainer.args.gradient_checkpointing_kwargs),
    ):
        for batch in trainer.accelerator.prepare(loader):
            watchdog.beat()
            # Tensors of (rows of all ranks,), in the order of the data; `gather_for_metrics` drops the rows that the
            # loader repeats to fill up the last batch.
            scored = trainer.accelerator.gather_for_metrics(tuple(score(engine, batch)))
            for values, more in zip(found, scored, strict=True):
                values += more.tolist()
    rows.numbers |= {name: np.array(values) for name, values in zip(columns, found, strict=True)}
