"""Token ids of examples: what the trainers read, and the file that keeps them between attempts."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from omnialign.errors import DataLoss
from training.files import write_atomically


@dataclass(frozen=True)
class Example:
    """A prompt and its answers as token ids; for dpo the answers are chosen, then rejected."""

    prompt: list[int]
    answers: list[list[int]]

    @property
    def length(self) -> int:
        """Tokens of the prompt with its longest answer."""
        return len(self.prompt) + max(len(answer) for answer in self.answers)


def save(path: Path, examples: Sequence[Example]) -> None:
    """Writes examples to one file, atomically: every id in one array, and where each piece ends."""
    pieces = [piece for example in examples for piece in (example.prompt, *example.answers)]
    buffer = io.BytesIO()
    np.savez(
        buffer,
        ids=np.fromiter((i for piece in pieces for i in piece), dtype=np.int32),
        ends=np.cumsum([len(piece) for piece in pieces], dtype=np.int64),
        answers=np.array([len(example.answers) for example in examples], dtype=np.int32),
    )
    write_atomically(path, buffer.getvalue())


def load(path: Path) -> list[Example]:
    """The examples of a file that `save` wrote. Raises `DataLoss` (EXAMPLES_UNREADABLE) when it is damaged."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            ids, ends, answers = arrays["ids"], arrays["ends"], arrays["answers"]
            pieces = iter([piece.tolist() for piece in np.split(ids, ends[:-1])] if len(ends) else [])
    except (OSError, ValueError, KeyError) as error:
        raise DataLoss(f"{path} is not a file of examples: {error}", reason="EXAMPLES_UNREADABLE") from error
    return [Example(prompt=next(pieces), answers=[next(pieces) for _ in range(count)]) for count in answers]
