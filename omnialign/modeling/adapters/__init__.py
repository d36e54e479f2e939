"""Adapters: content to model inputs and model outputs to content, one per model family."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from omnialign.errors import InvalidArgument
from omnialign.modeling.adapters.token import AnswerMalformed, TokenAdapter
from omnialign.modeling.codecs import CodecRange
from omnialign.modeling.inputs import ModelInputs
from omnialign.modeling.messages import Piece, Pieces, Turn
from omnialign.modeling.policy import NO_BOUNDS, MediaPolicy

__all__ = ["Adapter", "AnswerMalformed", "TokenAdapter", "load_adapter"]


class Adapter(Protocol):
    """Reads and writes conversations for one model. Engine and trainer share it, so that they see the same ids."""

    @property
    def pad_id(self) -> int:
        """Id that fills short rows of a batch."""

    @property
    def end_id(self) -> int:
        """Id that ends an answer."""

    @property
    def media_spans(self) -> Sequence[CodecRange]:
        """How the model writes media; empty for one that writes none."""

    def encode(self, turns: Sequence[Turn], policy: MediaPolicy = NO_BOUNDS) -> ModelInputs:
        """A conversation whose last turn is the user's, up to where the answer begins, its media read by `policy`."""

    def encode_answer(self, pieces: Sequence[Piece], policy: MediaPolicy = NO_BOUNDS) -> list[int]:
        """Ids of an answer, the end id included."""

    def decode(self, ids: Sequence[int]) -> Pieces:
        """The answer that ids stand for; what follows the end id is dropped. Raises AnswerMalformed."""


def load_adapter(folder: Path) -> Adapter:
    """The adapter of a model folder. Raises InvalidArgument MODEL_HAS_NO_ADAPTER."""
    if (folder / "codecs.json").is_file() and (folder / "tokenizer.json").is_file():
        return TokenAdapter.load(folder)
    raise InvalidArgument(
        f"The model folder {folder.name} has no codecs.json and tokenizer.json, so nothing tells how it reads media.",
        reason="MODEL_HAS_NO_ADAPTER",
        metadata={"folder": folder.name},
    )
