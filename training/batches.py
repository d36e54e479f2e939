"""Batches: which examples go together, and how their rows become tensors.

Rows are padded on the right to the longest of their batch, and the loss falls on exactly the answers. Features of media
are added as further keys, which TRL's trainers hand to the model unchanged.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.utils.data import Sampler

from omnialign.modeling.inputs import ModelInputs
from training.media import BatchMedia

IGNORED = -100
"""The label that the loss skips."""


class LengthSampler(Sampler[int]):
    """A shuffled order in which neighbours have similar lengths, so that batches carry little padding.

    The order depends on the seed and the epoch alone, so all ranks and a resumed run agree on it.
    """

    POOL_BATCHES = 2
    """Batches that are sorted by length together. More would pad less but make batches of one kind: with 50, on eight
    subtasks of unequal length, the final loss doubled."""

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
        # 1. Shuffle all examples.
        order = torch.randperm(len(self._lengths), generator=generator).tolist()
        # 2. Sort by length within pools of a few batches, and cut the pools into batches.
        pool_size, batches = self._batch_size * self.POOL_BATCHES, []
        for start in range(0, len(order), pool_size):
            pool = sorted(order[start : start + pool_size], key=lambda index: self._lengths[index])
            batches += [pool[at : at + self._batch_size] for at in range(0, len(pool), self._batch_size)]
        # 3. Shuffle the batches, or every pool would run from short to long. The loader cuts this order into batches
        #    again, by count: a short batch in the middle would shift all later ones across a border of lengths, so it
        #    stays last.
        whole = [batch for batch in batches if len(batch) == self._batch_size]
        short = [batch for batch in batches if len(batch) < self._batch_size]
        shuffled = torch.randperm(len(whole), generator=generator).tolist()
        return iter([index for at in shuffled for index in whole[at]] + [index for batch in short for index in batch])


def by_length(lengths: Sequence[int]) -> list[int]:
    """The indices of the examples from short to long; equal lengths keep their order."""
    return sorted(range(len(lengths)), key=lambda index: (lengths[index], index))


def sft_row(prompt: Sequence[int], answer: Sequence[int]) -> dict[str, Any]:
    """One training row. The loss falls on the answer, its end token included, and on nothing else."""
    return {"input_ids": [*prompt, *answer], "labels": [IGNORED] * len(prompt) + list(answer)}


def pair_row(prompt: Sequence[int], chosen: Sequence[int], rejected: Sequence[int]) -> dict[str, Any]:
    """One training row of a preference pair."""
    return {"prompt_ids": list(prompt), "chosen_ids": list(chosen), "rejected_ids": list(rejected)}


class SftCollator:
    """Makes a batch of rows of `input_ids` and `labels`."""

    def __init__(self, *, pad_id: int, media: BatchMedia | None = None) -> None:
        self.pad_id, self.media = pad_id, media

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """The batch: `input_ids`, `attention_mask` and `labels`, each (rows, longest), and features."""
        batch = _inputs(rows, [row["input_ids"] for row in rows], pad_id=self.pad_id, media=self.media)
        # A filler medium may have made a row longer than its labels: pad these to the width of the ids, as ignored.
        labels = pad([row["labels"] for row in rows], value=IGNORED, width=batch["input_ids"].shape[1])
        return {**batch, "labels": labels}


class PairCollator:
    """Makes one batch of rows of prompt, chosen and rejected ids: all chosen sequences first, then all rejected ones.

    That is the order in which TRL splits a batch into halves again.
    """

    def __init__(self, *, pad_id: int, media: BatchMedia | None = None) -> None:
        self.pad_id, self.media = pad_id, media

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """The batch: `input_ids`, `attention_mask` and `completion_mask`, each (2 * rows, longest), and features.

        Rows that carry the reference's log-probabilities add them as `ref_chosen_logps` and `ref_rejected_logps`,
        each (rows,).
        """
        answers = [(row["prompt_ids"], row[key]) for key in ("chosen_ids", "rejected_ids") for row in rows]
        ids = [[*prompt, *answer] for prompt, answer in answers]
        batch = _inputs([*rows, *rows], ids, pad_id=self.pad_id, media=self.media)
        # 1 on the answer's tokens, 0 on the prompt, on padding and on filler media.
        masks = [[0] * len(prompt) + [1] * len(answer) for prompt, answer in answers]
        batch["completion_mask"] = pad(masks, value=0, width=batch["input_ids"].shape[1])
        for key in ("ref_chosen_logps", "ref_rejected_logps"):
            if key in rows[0]:
                batch[key] = torch.tensor([row[key] for row in rows], dtype=torch.float32)
        return batch


def _inputs(
    rows: Sequence[Mapping[str, Any]], ids: Sequence[list[int]], *, pad_id: int, media: BatchMedia | None
) -> dict[str, torch.Tensor]:
    """What the model is given apart from labels: ids and mask, each (rows, longest), and the rows' features."""
    made = media.inputs(rows, ids) if media else [ModelInputs(row) for row in ids]
    padded = pad([row.ids for row in made], value=pad_id)
    mask = pad([[1] * len(row.ids) for row in made], value=0)
    return {"input_ids": padded, "attention_mask": mask, **(media.tensors(made, padded) if media else {})}


def pad(rows: Sequence[Sequence[int]], *, value: int, width: int = 0) -> torch.Tensor:
    """Rows of unequal length as one (rows, max(longest, `width`)) tensor, filled with `value` on the right."""
    longest = max(width, *(len(row) for row in rows))
    return torch.tensor([[*row, *([value] * (longest - len(row)))] for row in rows], dtype=torch.long)
