"""The reference: the log-probabilities that the model gives answers before its first step.

They are computed once for a dataset and a base, while the model is still the start, so no second model stays in memory;
and they are kept beside the file of examples, so that another attempt, or another run on the same base, reads them.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from io import BytesIO
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader
from trl.models import prepare_deepspeed
from trl.models.utils import disable_gradient_checkpointing
from trl.trainer.utils import disable_dropout_in_model

from training import distributed
from training.batches import Rows
from training.files import walk, write_atomically
from training.loop import DurableTrainer
from training.spec import Spec
from training.trainer_inputs import TrainerInputs
from training.watchdog import Phase, Watchdog

Score = Callable[[Any, dict[str, Any]], Sequence[torch.Tensor]]
"""From a model and a batch to log-probabilities, each (rows,)."""


def add_reference(trainer: DurableTrainer, columns: Sequence[str], *, score: Score, inputs: TrainerInputs) -> None:
    """Adds what `score` gives each row of the trainer's data as a column.

    From here on the policy has no dropout, as the reference has none: their ratios would be noise.
    """
    disable_dropout_in_model(trainer.model)
    rows: Rows = trainer.train_dataset
    path = Path(distributed.on_main(lambda: str(_path(inputs, rows, columns))))
    if not distributed.on_main(lambda: _is_whole(path, shape=(len(columns), len(rows)))):
        found = _computed(trainer, columns, score=score, watchdog=inputs.watchdog)
        distributed.on_main(lambda: _write(path, found))
    distributed.share_file(path)
    rows.numbers |= dict(zip(columns, np.load(path, mmap_mode="r"), strict=True))


def _computed(
    trainer: DurableTrainer, columns: Sequence[str], *, score: Score, watchdog: Watchdog
) -> NDArray[np.float32]:
    """What the model as it is gives each row, (columns, rows), the same on every rank."""
    rows = trainer.train_dataset
    found, at = np.empty((len(columns), len(rows)), dtype=np.float32), 0
    loader = DataLoader(rows, batch_size=trainer.args.train_batch_size, collate_fn=trainer.data_collator, shuffle=False)
    engine = prepare_deepspeed(trainer.model, trainer.accelerator)
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
            values = torch.stack(list(scored)).float().cpu().numpy()
            found[:, at : at + values.shape[1]] = values
            at += values.shape[1]
    return found


def _path(inputs: TrainerInputs, rows: Rows, columns: Sequence[str]) -> Path:
    """Where the columns are kept: another base, precision or choice of rows gives another file."""
    spec, examples = inputs.spec, inputs.examples.path
    key = [list(columns), rows.identity, list(_files(examples, spec)), spec.distribution.precision]
    key.append(spec.lora.quantize if spec.lora else "")
    digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]
    return examples.with_suffix(f".reference-{digest}.npy")


def _files(examples: Path, spec: Spec) -> Iterator[tuple[str, int, int]]:
    """Name, size and time of the files that the columns are made from; to hash all of a large model takes minutes."""
    models = (walk(Path(folder)) for folder in (spec.base_model_dir, spec.initial_lora_dir) if folder)
    for path in (examples, *chain.from_iterable(models)):
        found = path.stat()
        yield str(path), found.st_size, found.st_mtime_ns


def _is_whole(path: Path, *, shape: tuple[int, int]) -> bool:
    try:
        return bool(np.load(path, mmap_mode="r").shape == shape)
    except (OSError, ValueError):
        return False


def _write(path: Path, found: NDArray[np.float32]) -> None:
    buffer = BytesIO()
    np.save(buffer, found)
    write_atomically(path, buffer.getvalue())
