"""Which rows each rank takes, pass by pass: similar lengths together, equal work for all ranks, every row once.

An optimiser step takes `batch_size` rows in a number of passes. In each pass all ranks work side by side, and the one
with the most tokens, padding included, keeps the others waiting. So the rows of a step are sorted by length and cut
into one group per rank and pass whose padded tokens are as even as can be: a rank with long rows takes few of them, one
with short rows takes many. With groups of equal size instead, eight ranks on rows of long-tailed lengths compute for
less than half of the time.

The order depends on the seed and the epoch alone, so all ranks and a resumed run agree on it.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch.utils.data import Sampler

Lengths = Sequence[int] | Mapping[int, int]
"""Tokens of each row, by its number."""


class BatchOrder(Sampler[list[int]]):
    """The rows of each pass of one rank in an epoch; a batch sampler."""

    POOL_STEPS = 2
    """Steps whose rows are sorted by length together. More would pad less but make steps of one kind: with 50, on eight
    subtasks of unequal length, the final loss doubled."""

    def __init__(
        self,
        lengths: ArrayLike,
        *,
        batch_size: int,
        num_passes: int,
        num_ranks: int,
        rank: int,
        seed: int,
        blank: int = 0,
    ) -> None:
        """`lengths` has the tokens of each row. `batch_size` is the rows of a step, over all ranks and passes.

        `blank` stands for a row where a rank has none; 0 means the index after the last row. Only the last step of an
        epoch, which takes what is left, can have fewer rows than ranks.
        """
        self._lengths = np.asarray(lengths)
        self._batch_size, self._num_passes = batch_size, num_passes
        self._num_ranks, self._rank = num_ranks, rank
        self._seed, self._epoch = seed, 0
        self.blank = blank or len(self._lengths)

    def set_epoch(self, epoch: int) -> None:
        """Chooses the order of an epoch."""
        self._epoch = epoch

    def __len__(self) -> int:
        whole, left = divmod(len(self._lengths), self._batch_size)
        return whole * self._num_passes + self._passes_for(left)

    def __iter__(self) -> Iterator[list[int]]:
        return (groups[self._rank] for step in self.steps() for groups in step)

    def steps(self) -> Iterator[list[list[list[int]]]]:
        """The epoch of all ranks: the rows by step, pass and rank."""
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + self._epoch)
        # 1. Shuffle all rows. Pools of a few steps are sorted by length and cut into steps, each when it is its turn.
        order = torch.randperm(len(self._lengths), generator=generator).numpy()
        # 2. Shuffle the steps, or every pool would run from short to long. What is left over stays last, where the
        #    trainer expects fewer passes.
        whole, left = divmod(len(order), self._batch_size)
        for step in torch.randperm(whole, generator=generator).tolist():
            yield self._shared_out(self._rows_of(step, order))
        if left:
            yield self._shared_out(self._rows_of(whole, order))

    def _rows_of(self, step: int, order: NDArray[np.int64]) -> list[int]:
        """The rows of a step, from short to long; `order` are all rows, shuffled."""
        number, place = divmod(step, self.POOL_STEPS)
        size = self._batch_size * self.POOL_STEPS
        pool = order[number * size : (number + 1) * size]
        pool = pool[np.argsort(self._lengths[pool], kind="stable")]
        found: list[int] = pool[place * self._batch_size : (place + 1) * self._batch_size].tolist()
        return found

    def _shared_out(self, rows: Sequence[int]) -> list[list[list[int]]]:
        """The rows of a step by pass and rank."""
        num_passes = self._passes_for(len(rows))
        lengths = dict(zip(rows, self._lengths[rows].tolist(), strict=True))
        return shared_out(rows, lengths=lengths, num_passes=num_passes, num_ranks=self._num_ranks, blank=self.blank)

    def _passes_for(self, num_rows: int) -> int:
        """Passes of a step with so many rows; a short last step has fewer than the others."""
        return -(-num_rows * self._num_passes // self._batch_size)


class PromptOrder(Sampler[list[int]]):
    """The prompts of each step in an epoch, for methods that draw the answers themselves; a batch sampler.

    A step's prompts come with the first of its passes, and the others come empty: which answers a pass has is not
    known before they are drawn. Each step comes `num_iterations` times. All ranks see all prompts.
    """

    def __init__(self, order: BatchOrder, *, num_passes: int, num_iterations: int) -> None:
        self._order, self._num_passes, self._num_iterations = order, num_passes, num_iterations

    def set_epoch(self, epoch: int) -> None:
        """Chooses the order of an epoch."""
        self._order.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self._order) * self._num_iterations * self._num_passes

    def __iter__(self) -> Iterator[list[int]]:
        for rows in self._order:
            for _ in range(self._num_iterations):
                yield rows
                yield from ([] for _ in range(self._num_passes - 1))


def shared_out(
    rows: Sequence[int], *, lengths: Lengths, num_passes: int, num_ranks: int, blank: int
) -> list[list[list[int]]]:
    """The rows of a step by pass and rank, as even as can be; `blank` where a rank has no row in a pass."""
    count = num_passes * num_ranks
    groups = even_groups(rows, lengths=lengths, count=min(count, len(rows))) if rows else []
    groups += [[blank]] * (count - len(groups))
    # Neighbours have similar lengths, so each pass takes neighbours. Every other pass deals in reverse, or the last
    # rank would have the shorter rows of every pass.
    passes = [groups[at : at + num_ranks] for at in range(0, count, num_ranks)]
    return [dealt[::-1] if at % 2 else dealt for at, dealt in enumerate(passes)]


def even_groups(rows: Sequence[int], *, lengths: Lengths, count: int) -> list[list[int]]:
    """Cuts rows into `count` groups, none of them empty, whose largest has as few padded tokens as possible.

    A group has `rows times its longest row` padded tokens. Sorted from long to short, the groups are pieces of the
    order, and the smallest limit that all of them can keep is found by bisection.
    """
    ordered = sorted(rows, key=lambda row: -lengths[row])
    low, high = lengths[ordered[0]], lengths[ordered[0]] * len(ordered)
    while low < high:
        middle = (low + high) // 2
        if sum(map(len, _filled(ordered, lengths, count, limit=middle))) == len(ordered):
            high = middle
        else:
            low = middle + 1
    return _filled(ordered, lengths, count, limit=high)


def _filled(ordered: Sequence[int], lengths: Lengths, count: int, *, limit: int) -> list[list[int]]:
    """Groups of at most `limit` padded tokens, each as large as it may be; too small a limit leaves rows over."""
    groups, at = [], 0
    for later in reversed(range(count)):
        # One row at least stays for each later group.
        taken = max(min(limit // lengths[ordered[at]], len(ordered) - at - later), 1)
        groups.append(list(ordered[at : at + taken]))
        at += taken
    return groups
