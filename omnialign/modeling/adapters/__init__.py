"""Adapters: content to model inputs and model outputs to content, one per model family."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from omnialign.errors import InvalidArgument
from omnialign.modeling.adapters.token import TokenAdapter
from omnialign.modeling.feature_cache import NO_CACHE, Cache
from omnialign.modeling.inputs import (
    NO_BOUNDS,
    MediaBytes,
    MediaFeatures,
    MediaPolicy,
    ModelInputs,
    Piece,
    Pieces,
    Turn,
)
from omnialign.modeling.spans import AnswerMalformed, MediaSpan

if TYPE_CHECKING:
    import torch

__all__ = ["Adapter", "AnswerMalformed", "TokenAdapter", "load_adapter"]

TOKENIZERS = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json")


class Adapter(Protocol):
    """Reads and writes conversations for one model. Engine and trainer share it, so that they see the same ids."""

    @property
    def pad_id(self) -> int:
        """Id that fills short rows of a batch."""

    @property
    def end_id(self) -> int:
        """Id that ends an answer."""

    @property
    def end_ids(self) -> Sequence[int]:
        """All ids that end an answer when the model writes one of them; `end_id` is the first."""

    @property
    def media_spans(self) -> Sequence[MediaSpan]:
        """How the model writes media; empty for one that writes none."""

    def encode(self, turns: Sequence[Turn], policy: MediaPolicy = NO_BOUNDS) -> ModelInputs:
        """A conversation whose last turn is the user's, up to where the answer begins, its media read by `policy`."""

    def features(self, media: Sequence[MediaBytes], policy: MediaPolicy = NO_BOUNDS) -> tuple[MediaFeatures, ...]:
        """The features of all media of a conversation, in reading order, as `encode` gives them."""

    def encode_answer(self, pieces: Sequence[Piece], policy: MediaPolicy = NO_BOUNDS) -> list[int]:
        """Ids of an answer, the end id included."""

    def decode(self, ids: Sequence[int]) -> Pieces:
        """The answer that ids stand for; what follows the end id is dropped. Raises AnswerMalformed."""

    def tensors(self, rows: Sequence[ModelInputs], ids: "torch.Tensor") -> dict[str, "torch.Tensor"]:
        """What the model's `forward` needs for a batch beside ids, attention mask and positions.

        `rows` are the rows in order, `ids` int64 of shape (rows, columns), padded on either side. {} without media.
        """


def load_adapter(folder: Path, cache: Cache = NO_CACHE) -> Adapter:
    """The adapter of a model folder; what it makes of media is kept in `cache`.

    Raises InvalidArgument MODEL_HAS_NO_ADAPTER, and what `TokenAdapter.load` and `ProcessorAdapter` raise.
    """
    if (folder / "codecs.json").is_file() and (folder / "tokenizer.json").is_file():
        return TokenAdapter.load(folder, cache)
    if any((folder / name).is_file() for name in TOKENIZERS):
        return _family_adapter(folder, cache)
    raise InvalidArgument(
        f"The model folder {folder.name} has neither codecs.json with tokenizer.json nor the tokenizer of a processor "
        "model, so nothing tells how it reads text and media.",
        reason="MODEL_HAS_NO_ADAPTER",
        metadata={"folder": folder.name},
    )


def _family_adapter(folder: Path, cache: Cache) -> Adapter:
    """The adapter of a family of `transformers`, which programs that run no model do without."""
    try:
        from omnialign.modeling.adapters.chameleon import ChameleonAdapter
        from omnialign.modeling.adapters.emu3 import Emu3Adapter
        from omnialign.modeling.adapters.janus import JanusAdapter
        from omnialign.modeling.adapters.processor import ProcessorAdapter
        from omnialign.modeling.model_folder import read_config
    except ImportError as error:
        raise InvalidArgument(
            f"The model {folder.name} is read by transformers, which is not installed here ({error}).",
            reason="MODEL_HAS_NO_ADAPTER",
            metadata={"folder": folder.name},
        ) from error
    families: dict[str, type[ProcessorAdapter]] = {
        "chameleon": ChameleonAdapter,
        "emu3": Emu3Adapter,
        "janus": JanusAdapter,
    }
    return families.get(read_config(folder).model_type, ProcessorAdapter)(folder, cache)
