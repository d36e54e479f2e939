"""The order of the examples: shuffled, yet with neighbours of like length, so that batches carry little padding."""

from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import Sampler


class LengthSampler(Sampler[int]):
    """Shuffles, sorts within pools of some batches by length, and shuffles the batches.

    The order follows from the seed and the epoch alone, so all ranks and a resumed run agree on it.
    """

    # More pad less, but make batches of one kind: on eight subtasks of unequal length 50 doubled the final loss.
    POOL_BATCHES = 2

    def __init__(self, lengths: Sequence[int], *, batch_size: int, seed: int) -> None:
        self._lengths = list(lengths)
        self._batch_size = batch_size
        self._seed = seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Chooses the order of an epoch; called by the trainer."""
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._lengths)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + self._epoch)
        order = torch.randperm(len(self._lengths), generator=generator).tolist()
        pool_size, batches = self._batch_size * self.POOL_BATCHES, []
        for start in range(0, len(order), pool_size):
            pool = sorted(order[start : start + pool_size], key=lambda index: self._lengths[index])
            batches += [pool[at : at + self._batch_size] for at in range(0, len(pool), self._batch_size)]
        # A short batch stays last: in the middle it would shift every later one across a border of lengths.
        whole = [batch for batch in batches if len(batch) == self._batch_size]
        short = [batch for batch in batches if len(batch) < self._batch_size]
        shuffled = torch.randperm(len(whole), generator=generator).tolist()
        return iter([index for at in shuffled for index in whole[at]] + [index for batch in short for index in batch])
