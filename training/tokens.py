"""Token ids of examples: what the trainers read, and the file that keeps them between attempts.

Media whose features a model is fed stand here by digest alone: the file stays small, and the features come when their
batch does (`training.media`).
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from omnialign.errors import DataLoss
from training.files import write_atomically

DIGEST_BYTES = 32


@dataclass(frozen=True)
class MediaRef:
    """A medium by its digest. `modality` is a value of `omnialign.v1.Modality`."""

    sha256: str
    modality: int


@dataclass(frozen=True)
class Example:
    """A prompt and its answers as token ids; for dpo the answers are chosen, then rejected.

    `media` are those of the prompt whose features the model is fed beside the ids, in reading order; none for models
    that read media as ids.
    """

    prompt: list[int]
    answers: list[list[int]]
    media: tuple[MediaRef, ...] = ()

    @property
    def length(self) -> int:
        """Tokens of the prompt with its longest answer."""
        return len(self.prompt) + max(len(answer) for answer in self.answers)


def save(path: Path, examples: Sequence[Example]) -> None:
    """Writes examples to one file, atomically: every id in one array, and where each piece ends."""
    pieces = [piece for example in examples for piece in (example.prompt, *example.answers)]
    refs = [ref for example in examples for ref in example.media]
    buffer = io.BytesIO()
    np.savez(
        buffer,
        ids=np.fromiter((i for piece in pieces for i in piece), dtype=np.int32),
        ends=np.cumsum([len(piece) for piece in pieces], dtype=np.int64),
        answers=np.array([len(example.answers) for example in examples], dtype=np.int32),
        media=np.array([len(example.media) for example in examples], dtype=np.int32),
        digests=np.frombuffer(b"".join(bytes.fromhex(ref.sha256) for ref in refs), dtype=np.uint8),
        modalities=np.array([ref.modality for ref in refs], dtype=np.int8),
    )
    write_atomically(path, buffer.getvalue())


def load(path: Path) -> list[Example]:
    """The examples of a file that `save` wrote. Raises `DataLoss` (EXAMPLES_UNREADABLE) when it is damaged."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            ids, ends, answers, media = (arrays[name] for name in ("ids", "ends", "answers", "media"))
            pieces = iter([piece.tolist() for piece in np.split(ids, ends[:-1])] if len(ends) else [])
            named = zip(arrays["digests"].reshape(-1, DIGEST_BYTES), arrays["modalities"], strict=True)
            refs = iter([MediaRef(digest.tobytes().hex(), int(modality)) for digest, modality in named])
        return [
            Example(next(pieces), [next(pieces) for _ in range(count)], tuple(next(refs) for _ in range(number)))
            for count, number in zip(answers, media, strict=True)
        ]
    except (OSError, EOFError, ValueError, KeyError, RuntimeError, StopIteration, BadZipFile) as error:
        raise DataLoss(f"{path} is not a file of examples: {error}", reason="EXAMPLES_UNREADABLE") from error
