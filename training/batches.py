"""Batches: how examples become rows, and rows become tensors. `batch_order` says which rows go together.

Rows are padded on the right to the longest of their batch, and the loss falls on exactly the answers, their end tokens
included. Features of media are added as further keys, which trainers hand to the model unchanged, and with them
`MEDIA_ROWS`, for the one who packs the rows.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from omnialign.modeling.inputs import ModelInputs
from training.example_file import Examples
from training.examples import Example
from training.media import BatchMedia

PAIR_NUMBERS = ("ref_chosen_logps", "ref_rejected_logps", "margins")
"""Numbers that rows of pairs may carry."""
LABELLED_NUMBERS = ("ref_logps", "ref_mismatched_logps")
"""Numbers that rows of good and bad answers may carry."""
TEACHER = ("teacher", "teacher_log_probs", "teacher_tokens")
"""What a batch knows of a teacher: its inputs, and then what it says of the answers' tokens."""
MEDIA_ROWS = "media_rows"
"""Which rows the features of a batch belong to; a batch without features has none."""
BESIDE_INPUTS = frozenset(
    {"completion_mask", "mismatched", "desirable", MEDIA_ROWS, *PAIR_NUMBERS, *LABELLED_NUMBERS, *TEACHER}
)
"""What a batch holds beside the model's inputs."""


class Rows(Dataset[dict[str, Any]]):
    """The rows of examples, each made when it is asked for, with its media and numbers; the blank one comes last."""

    def __init__(
        self,
        examples: Examples,
        row: Callable[[Example], dict[str, Any]],
        *,
        blank: Example | None,
        numbers: Mapping[str, NDArray[np.floating]] | None = None,
    ) -> None:
        """`numbers` are columns with one number for each example, 0 in the blank row. `blank` may be left out."""
        self._examples, self._row, self._blank = examples, row, blank
        self.numbers = dict(numbers or {})

    @property
    def identity(self) -> str:
        """A hash of which examples of the file these are, and in which order."""
        return hashlib.sha256(self._examples.rows.tobytes()).hexdigest()

    def __len__(self) -> int:
        return len(self._examples) + (self._blank is not None)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if self._blank and index == len(self._examples):
            return {**self._row(self._blank), **dict.fromkeys(self.numbers, 0.0)}
        example = self._examples[index]
        numbers = {name: float(column[index]) for name, column in self.numbers.items()}
        return {**self._row(example), "media": example.media, **numbers}


def by_length(examples: Examples) -> Examples:
    """The examples from short to long; equal lengths keep their order."""
    return examples.select(np.argsort(examples.lengths, kind="stable"))


def blank_example(token: int) -> Example:
    """What a rank without a row takes in an epoch's last step: it has no answer, so nothing is learnt from it."""
    return Example(prompt=[token, token], answers=[[], []], teacher_prompt=[token, token])


def sft_row(example: Example) -> dict[str, Any]:
    """One training row of a prompt and its answer."""
    return {"prompt_ids": example.prompt, "answer_ids": example.answers[0]}


def pair_row(example: Example) -> dict[str, Any]:
    """One training row of a preference pair."""
    chosen, rejected = example.answers
    return {"prompt_ids": example.prompt, "chosen_ids": chosen, "rejected_ids": rejected}


def labelled_row(example: Example) -> dict[str, Any]:
    """One training row of an answer that is good or bad, without `mismatched_ids`: another prompt's answer, or []."""
    return {"prompt_ids": example.prompt, "answer_ids": example.answers[0], "desirable": example.value > 0}


def critiqued_row(example: Example) -> dict[str, Any]:
    """One training row of an answer behind a prompt with the feedback and one without."""
    return {
        "prompt_ids": example.prompt,
        "teacher_prompt_ids": example.teacher_prompt,
        "answer_ids": example.answers[0],
        "teacher_media": example.teacher_media,
    }


class SftCollator:
    """Makes a batch of rows of prompt and answer."""

    def __init__(self, *, pad_id: int, media: BatchMedia | None = None) -> None:
        self.pad_id, self.media = pad_id, media

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """The batch: `input_ids`, `attention_mask` and `completion_mask`, each (rows, longest), and features."""
        return _answers(rows, [row["answer_ids"] for row in rows], pad_id=self.pad_id, media=self.media)


class PairCollator:
    """Makes one batch of rows of prompt, chosen and rejected ids: chosen sequences first, then the rejected ones."""

    def __init__(self, *, pad_id: int, media: BatchMedia | None = None) -> None:
        self.pad_id, self.media = pad_id, media

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """The batch: `input_ids`, `attention_mask` and `completion_mask`, each (2 * rows, longest), and features.

        Rows that carry `PAIR_NUMBERS` add them, each (rows,).
        """
        answers = [row[key] for key in ("chosen_ids", "rejected_ids") for row in rows]
        batch = _answers([*rows, *rows], answers, pad_id=self.pad_id, media=self.media)
        return {**batch, **_numbers(rows, PAIR_NUMBERS)}


class LabelledCollator:
    """Makes a batch of rows of prompt, answer and mismatched answer."""

    def __init__(self, *, pad_id: int, media: BatchMedia | None = None) -> None:
        self.pad_id, self.media = pad_id, media

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The batch: `input_ids`, `attention_mask` and `completion_mask`, each (rows, longest), and features.

        `mismatched` holds the same of the mismatched answers, behind the same prompts and media. `desirable` is
        (rows,), and so are `LABELLED_NUMBERS`, where the rows carry them.
        """
        made = {
            key: _answers(rows, [row[f"{key}_ids"] for row in rows], pad_id=self.pad_id, media=self.media)
            for key in ("answer", "mismatched")
        }
        return {
            **made["answer"],
            "mismatched": made["mismatched"],
            "desirable": torch.tensor([row["desirable"] for row in rows]),
            **_numbers(rows, LABELLED_NUMBERS),
        }


class CritiquedCollator:
    """Makes a batch of rows of a prompt for the student, one for the teacher, and an answer."""

    def __init__(self, *, pad_id: int, media: BatchMedia | None = None) -> None:
        self.pad_id, self.media = pad_id, media

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The batch: `input_ids`, `attention_mask` and `completion_mask`, each (rows, longest), and features.

        `teacher` holds the same of the answers behind the teacher's prompts and media.
        """
        answers = [row["answer_ids"] for row in rows]
        shown = [{"prompt_ids": row["teacher_prompt_ids"], "media": row["teacher_media"]} for row in rows]
        return {
            **_answers(rows, answers, pad_id=self.pad_id, media=self.media),
            "teacher": _answers(shown, answers, pad_id=self.pad_id, media=self.media),
        }


def _answers(
    rows: Sequence[Mapping[str, Any]], answers: Sequence[Sequence[int]], *, pad_id: int, media: BatchMedia | None
) -> dict[str, torch.Tensor]:
    """The model's inputs for an answer behind each row's prompt, and `completion_mask`, (rows, longest)."""
    ids = [[*row["prompt_ids"], *answer] for row, answer in zip(rows, answers, strict=True)]
    batch = _inputs(rows, ids, pad_id=pad_id, media=media)
    # 1 on the answer's tokens, 0 on the prompt, on padding and on filler media.
    masks = [[0] * len(row["prompt_ids"]) + [1] * len(answer) for row, answer in zip(rows, answers, strict=True)]
    return {**batch, "completion_mask": pad(masks, value=0, width=batch["input_ids"].shape[1])}


def _numbers(rows: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> dict[str, torch.Tensor]:
    """The columns of numbers among `keys` that the rows have, (rows,) each."""
    return {key: torch.tensor([row[key] for row in rows], dtype=torch.float32) for key in keys if key in rows[0]}


class AnswerCollator:
    """Makes a batch of answers of which each token has numbers of its own, such as an advantage."""

    def __init__(self, *, pad_id: int, media: BatchMedia | None = None) -> None:
        self.pad_id, self.media = pad_id, media

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """The batch: `input_ids` and `attention_mask`, each (rows, longest), and features.

        Further tensors are (rows, longest - 1), because position t predicts token t + 1: `answer_mask`, which is 1
        where that token is of the answer, and one of each key in a row's `columns`, whose numbers are those of the
        answer's tokens, and 0 elsewhere.
        """
        ids = [[*row["prompt_ids"], *row["answer_ids"]] for row in rows]
        batch = _inputs(rows, ids, pad_id=self.pad_id, media=self.media)
        width = batch["input_ids"].shape[1] - 1
        columns = {"answer_mask": [[1.0] * len(row["answer_ids"]) for row in rows]}
        columns |= {name: [row["columns"][name] for row in rows] for name in rows[0]["columns"]}
        for name, numbers in columns.items():
            batch[name] = torch.zeros(len(rows), width)
            for at, (row, own) in enumerate(zip(rows, numbers, strict=True)):
                begin = len(row["prompt_ids"]) - 1
                batch[name][at, begin : begin + len(own)] = torch.tensor(own, dtype=torch.float32)
        return batch


def _inputs(
    rows: Sequence[Mapping[str, Any]], ids: Sequence[list[int]], *, pad_id: int, media: BatchMedia | None
) -> dict[str, Any]:
    """What the model is given apart from labels: ids and mask, each (rows, longest), and the rows' features."""
    made = media.inputs(rows, ids) if media else [ModelInputs(row) for row in ids]
    padded = pad([row.ids for row in made], value=pad_id)
    mask = pad([[1] * len(row.ids) for row in made], value=0)
    batch = {"input_ids": padded, "attention_mask": mask}
    if media is None or not (features := media.tensors(made, padded)):
        return batch
    return {**batch, **features, MEDIA_ROWS: media.rows(rows, made)}


def pad(rows: Sequence[Sequence[int]], *, value: int, width: int = 0) -> torch.Tensor:
    """Rows of unequal length as one (rows, max(longest, `width`)) tensor, filled with `value` on the right."""
    longest = max(width, *(len(row) for row in rows))
    return torch.tensor([[*row, *([value] * (longest - len(row)))] for row in rows], dtype=torch.long)
