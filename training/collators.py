"""Batches: padding on the right, to the longest sequence of the batch, with the loss on exactly the answers."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

IGNORED = -100


class SftCollator:
    """Rows of `input_ids` and `labels` to a batch; labels outside the answer are ignored by the loss."""

    def __init__(self, *, pad_id: int) -> None:
        self.pad_id = pad_id

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """The batch of `rows`: `input_ids`, `attention_mask`, `labels`, each (rows, longest)."""
        return {
            "input_ids": pad([row["input_ids"] for row in rows], value=self.pad_id),
            "attention_mask": pad([[1] * len(row["input_ids"]) for row in rows], value=0),
            "labels": pad([row["labels"] for row in rows], value=IGNORED),
        }


class PairCollator:
    """Rows of prompt, chosen and rejected ids to one batch: all chosen sequences first, then all rejected ones."""

    def __init__(self, *, pad_id: int) -> None:
        self.pad_id = pad_id

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """The batch: `input_ids`, `attention_mask` and `completion_mask` (2 x rows, longest), and the reference."""
        answers = [(row["prompt_ids"], row[key]) for key in ("chosen_ids", "rejected_ids") for row in rows]
        batch = {
            "input_ids": pad([[*prompt, *answer] for prompt, answer in answers], value=self.pad_id),
            "attention_mask": pad([[1] * (len(prompt) + len(answer)) for prompt, answer in answers], value=0),
            "completion_mask": pad([[0] * len(prompt) + [1] * len(answer) for prompt, answer in answers], value=0),
        }
        for key in ("ref_chosen_logps", "ref_rejected_logps"):
            if key in rows[0]:
                batch[key] = torch.tensor([row[key] for row in rows], dtype=torch.float32)
        return batch


def sft_row(prompt: Sequence[int], answer: Sequence[int]) -> dict[str, list[int]]:
    """One training row: the loss falls on the answer and on nothing else."""
    return {"input_ids": [*prompt, *answer], "labels": [IGNORED] * len(prompt) + list(answer)}


def pad(rows: Sequence[Sequence[int]], *, value: int) -> torch.Tensor:
    """Rows of unequal length as one (rows, longest) tensor, filled on the right."""
    longest = max(len(row) for row in rows)
    return torch.tensor([[*row, *([value] * (longest - len(row)))] for row in rows], dtype=torch.long)
