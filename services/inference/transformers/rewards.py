"""Rewards: prompts with their responses, in one forward pass each and without a cache of keys and values.

One thread runs all reward models, beside the workers that generate. Calls take turns, a batch each; the rows of a batch
have similar lengths, and at most `prefill_tokens` padded tokens together. A reward does not depend on who else is in
the batch, but for the rounding of sums. With `deterministic` not even on that: the rows of a call alone decide its
batches, which are not halved when memory runs out.
"""

import asyncio
import math
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch

from omnialign.errors import OmnialignError
from omnialign.modeling.adapters.features import joint_shape
from omnialign.modeling.inputs import ModelInputs
from services.inference.config import EngineConfig
from services.inference.errors import engine_closed, is_out_of_memory, queue_full, reward_not_finite
from services.inference.metrics import EngineMetrics
from services.inference.transformers.batch import determinism, to_model
from services.inference.transformers.loading import LoadedModel
from services.inference.transformers.scheduler import generation_error, usable_cores

Reward = float | OmnialignError


class RewardPool:
    """Runs reward models on a thread of its own. For use on one event loop."""

    def __init__(self, config: EngineConfig, metrics: EngineMetrics) -> None:
        self._config, self._metrics, self._num_waiting = config, metrics, 0
        threads = config.threads or usable_cores()
        self._thread = ThreadPoolExecutor(
            1, thread_name_prefix="omnialign-rewards", initializer=torch.set_num_threads, initargs=(threads,)
        )

    def close(self) -> None:
        """Ends the thread after the batches in its queue. Calls with more to do fail with Unavailable ENGINE_CLOSED."""
        self._thread.shutdown()

    async def run(
        self, loaded: LoadedModel, rows: Sequence[ModelInputs], *, deterministic: bool = False
    ) -> AsyncIterator[tuple[int, Reward]]:
        """The reward of each row, or the error that concerns it alone, with its index, as each batch finishes.

        Raises ResourceExhausted QUEUE_FULL, Unavailable ENGINE_CLOSED.
        """
        if self._num_waiting + len(rows) > self._config.max_waiting:
            raise queue_full(waiting=self._num_waiting, new=len(rows), bound=self._config.max_waiting)
        left = len(rows)
        self._num_waiting += left
        try:
            for batch in batches_of(rows, max_tokens=self._config.prefill_tokens):
                found = await self._batch(loaded, [rows[i] for i in batch], deterministic)
                for number, reward in zip(batch, found, strict=True):
                    self._num_waiting, left = self._num_waiting - 1, left - 1
                    yield number, reward
        finally:
            self._num_waiting -= left
            self._metrics.requests.labels("cancelled").inc(left)

    async def _batch(self, loaded: LoadedModel, rows: Sequence[ModelInputs], deterministic: bool) -> list[Reward]:
        try:
            future = self._thread.submit(_rewards_or_errors, loaded, rows, deterministic)
        except RuntimeError as error:  # how an executor says that it was shut down
            raise engine_closed() from error
        found = await asyncio.wrap_future(future)
        self._metrics.batch_rows.observe(len(rows))
        self._metrics.tokens.labels("in").inc(sum(len(row.ids) for row in rows))
        for reward in found:
            self._metrics.requests.labels("error" if isinstance(reward, OmnialignError) else "end").inc()
        return found


def batches_of(rows: Sequence[ModelInputs], *, max_tokens: int) -> Iterator[list[int]]:
    """The indices of rows by batch, from short to long; rows whose videos the model cannot stack stay apart."""
    batch: list[int] = []
    for number in sorted(range(len(rows)), key=lambda index: (joint_shape(rows[index]) or (), len(rows[index].ids))):
        longest = len(rows[number].ids)
        differs = batch and joint_shape(rows[number]) != joint_shape(rows[batch[0]])
        if batch and (differs or (len(batch) + 1) * longest > max_tokens):
            yield batch
            batch = []
        batch.append(number)
    if batch:
        yield batch


def _rewards_or_errors(loaded: LoadedModel, rows: Sequence[ModelInputs], deterministic: bool) -> list[Reward]:
    """The outcome of each row. A batch that runs out of memory starts over in halves, these in halves again."""
    try:
        with determinism(deterministic):
            found = rewards_of(loaded, rows)
    except Exception as error:  # of a kernel, the driver or the model's code
        if is_out_of_memory(error) and len(rows) > 1 and not deterministic:
            halves = rows[: len(rows) // 2], rows[len(rows) // 2 :]
            return [reward for half in halves for reward in _rewards_or_errors(loaded, half, deterministic)]
        return [generation_error(error)] * len(rows)
    return [reward if math.isfinite(reward) else reward_not_finite(loaded.key.model, reward) for reward in found]


@torch.inference_mode()
def rewards_of(loaded: LoadedModel, rows: Sequence[ModelInputs]) -> list[float]:
    """The rewards of prompts with their responses, as one batch, padded on the right as in training."""
    longest, pad = max(len(row.ids) for row in rows), loaded.adapter.pad_id
    ids = torch.tensor([row.ids + [pad] * (longest - len(row.ids)) for row in rows])  # (rows, columns)
    lengths = torch.tensor([len(row.ids) for row in rows])  # (rows,)
    mask = (torch.arange(longest)[None] < lengths[:, None]).long()  # (rows, columns)
    features = loaded.adapter.tensors(rows, ids) if any(row.features for row in rows) else {}
    ends = torch.arange(len(rows)) * longest + lengths - 1
    inputs = {"input_ids": ids, "attention_mask": mask, "reward_at": ends, **features}
    given = {name: to_model(tensor, loaded.key.dtype, loaded.device) for name, tensor in inputs.items()}
    rewards: list[float] = loaded.module(**given).tolist()
    return rewards
