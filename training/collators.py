"""Batches: padding on the right, to the longest sequence of the batch, with the loss on exactly the answers.

The features of media come along as further keys, which TRL's trainers pass on to the model as they are.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from omnialign.modeling.inputs import ModelInputs
from training.media import BatchMedia

IGNORED = -100


class SftCollator:
    """Rows of `input_ids` and `labels` to a batch; labels outside the answer are ignored by the loss."""

    def __init__(self, *, pad_id: int, media: BatchMedia | None = None) -> None:
        self.pad_id, self.media = pad_id, media

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """The batch of `rows`: `input_ids`, `attention_mask`, `labels`, each (rows, longest), and features."""
        batch = _inputs(rows, [row["input_ids"] for row in rows], pad_id=self.pad_id, media=self.media)
        labels = pad([row["labels"] for row in rows], value=IGNORED, width=batch["input_ids"].shape[1])
        return {**batch, "labels": labels}


class PairCollator:
    """Rows of prompt, chosen and rejected ids to one batch: all chosen sequences first, then all rejected ones."""

    def __init__(self, *, pad_id: int, media: BatchMedia | None = None) -> None:
        self.pad_id, self.media = pad_id, media

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """The batch: `input_ids`, `attention_mask`, `completion_mask` (2 x rows, longest), features, the reference."""
        answers = [(row["prompt_ids"], row[key]) for key in ("chosen_ids", "rejected_ids") for row in rows]
        ids = [[*prompt, *answer] for prompt, answer in answers]
        batch = _inputs([*rows, *rows], ids, pad_id=self.pad_id, media=self.media)
        masks = [[0] * len(prompt) + [1] * len(answer) for prompt, answer in answers]
        batch["completion_mask"] = pad(masks, value=0, width=batch["input_ids"].shape[1])
        for key in ("ref_chosen_logps", "ref_rejected_logps"):
            if key in rows[0]:
                batch[key] = torch.tensor([row[key] for row in rows], dtype=torch.float32)
        return batch


def _inputs(
    rows: Sequence[Mapping[str, Any]], ids: Sequence[list[int]], *, pad_id: int, media: BatchMedia | None
) -> dict[str, torch.Tensor]:
    """What the model is given but for labels: ids, mask, and the features of the rows' media."""
    made = media.inputs(rows, ids) if media else [ModelInputs(row) for row in ids]
    padded = pad([row.ids for row in made], value=pad_id)
    mask = pad([[1] * len(row.ids) for row in made], value=0)
    return {"input_ids": padded, "attention_mask": mask, **(media.tensors(made, padded) if media else {})}


def sft_row(prompt: Sequence[int], answer: Sequence[int]) -> dict[str, Any]:
    """One training row: the loss falls on the answer and on nothing else."""
    return {"input_ids": [*prompt, *answer], "labels": [IGNORED] * len(prompt) + list(answer)}


def pair_row(prompt: Sequence[int], chosen: Sequence[int], rejected: Sequence[int]) -> dict[str, Any]:
    """One training row of a pair."""
    return {"prompt_ids": list(prompt), "chosen_ids": list(chosen), "rejected_ids": list(rejected)}


def pad(rows: Sequence[Sequence[int]], *, value: int, width: int = 0) -> torch.Tensor:
    """Rows of unequal length as one (rows, longest or `width`) tensor, filled on the right."""
    longest = max(width, *(len(row) for row in rows))
    return torch.tensor([[*row, *([value] * (longest - len(row)))] for row in rows], dtype=torch.long)
