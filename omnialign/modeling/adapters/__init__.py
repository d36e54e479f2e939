"""Adapters: conversations to model inputs and model outputs to answers, one per model family.

TokenAdapter          codecs.json beside a causal language model: all media are token ids
ProcessorAdapter      any family whose Hugging Face processor turns media into features; also plain language models
NativeTokenAdapter    Chameleon, Emu3: families that read and write their own image codes
MediaWritingAdapter   Janus: reads images as features and writes them as codes
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from omnialign.errors import InvalidArgument, OmnialignError
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
from omnialign.modeling.model_files import FolderFiles, check_files
from omnialign.modeling.spans import AnswerMalformed, MediaSpan

if TYPE_CHECKING:
    import torch

__all__ = ["Adapter", "AnswerMalformed", "TokenAdapter", "encode_response", "load_adapter"]

TOKENIZERS = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json")


class Adapter(Protocol):
    """Encodes and decodes conversations for one model. Engine and trainer share it, so both see the same ids."""

    @property
    def pad_id(self) -> int:
        """The id that pads the short rows of a batch."""

    @property
    def end_id(self) -> int:
        """The id that ends an answer."""

    @property
    def end_ids(self) -> Sequence[int]:
        """All ids at which generation stops; `end_id` is the first."""

    @property
    def media_spans(self) -> Sequence[MediaSpan]:
        """The grammar of the media that the model writes; empty if it writes none."""

    @property
    def unwritable_ids(self) -> Sequence[int]:
        """Ids that stand for media in prompts, which no answer may hold: nothing would be there to take their place."""

    def encode(self, turns: Sequence[Turn], policy: MediaPolicy = NO_BOUNDS) -> ModelInputs:
        """The inputs for a conversation that ends with a user's turn, up to where the answer begins."""

    def features(self, media: Sequence[MediaBytes], policy: MediaPolicy = NO_BOUNDS) -> tuple[MediaFeatures, ...]:
        """The features of all media of a conversation, in reading order, the same as from `encode`."""

    def encode_answer(self, pieces: Sequence[Piece], policy: MediaPolicy = NO_BOUNDS) -> list[int]:
        """The ids of an answer, including the end id."""

    def decode(self, ids: Sequence[int]) -> Pieces:
        """The answer that `ids` stand for, up to the first end id. Raises AnswerMalformed."""

    def tensors(self, rows: Sequence[ModelInputs], ids: "torch.Tensor") -> dict[str, "torch.Tensor"]:
        """What the model's `forward` needs for a batch besides ids, attention mask and positions; {} without media.

        `rows` are the inputs of the batch in order; `ids` (B, T), int64, are their ids, padded on either side.
        """


def load_adapter(folder: Path, cache: Cache = NO_CACHE) -> Adapter:
    """The adapter for a model folder; it keeps what it makes of media in `cache`.

    Raises InvalidArgument MODEL_HAS_NO_ADAPTER, and whatever `check_files`, `TokenAdapter.load` and `ProcessorAdapter`
    raise.
    """
    check_files(FolderFiles(folder, name=folder.name))
    try:
        return _load(folder, cache)
    except (OmnialignError, MemoryError):
        raise
    except Exception as error:  # a broken folder breaks whatever reads it
        raise InvalidArgument(
            f"The files of {folder.name} cannot be read: {type(error).__name__}: {str(error)[:500]}",
            reason="MODEL_HAS_NO_ADAPTER",
            metadata={"folder": folder.name},
        ) from error


def encode_response(
    adapter: Adapter, turns: Sequence[Turn], response: Pieces, policy: MediaPolicy = NO_BOUNDS
) -> ModelInputs:
    """The inputs of a prompt with a response to it, end token included. Raises what the adapter raises."""
    prompt = adapter.encode(turns, policy)
    return ModelInputs([*prompt.ids, *adapter.encode_answer(response, policy)], prompt.features, prompt.losses)


def _load(folder: Path, cache: Cache) -> Adapter:
    if (folder / "codecs.json").is_file() and (folder / "tokenizer.json").is_file():
        return TokenAdapter.load(folder, cache)
    if any((folder / name).is_file() for name in TOKENIZERS):
        return _family_adapter(folder, cache)
    raise InvalidArgument(
        f"The model folder {folder.name} has no tokenizer, so nothing says how it reads text and media; add the "
        "tokenizer's files (for a token model, tokenizer.json and codecs.json).",
        reason="MODEL_HAS_NO_ADAPTER",
        metadata={"folder": folder.name},
    )


def _family_adapter(folder: Path, cache: Cache) -> Adapter:
    """The adapter for a family of `transformers`, which is not installed everywhere, hence imported late."""
    try:
        from omnialign.modeling.adapters.chameleon import ChameleonAdapter
        from omnialign.modeling.adapters.emu3 import Emu3Adapter
        from omnialign.modeling.adapters.janus import JanusAdapter
        from omnialign.modeling.adapters.processor import ProcessorAdapter
        from omnialign.modeling.model_folder import read_config
    except ImportError as error:
        raise InvalidArgument(
            f"The model {folder.name} needs transformers, which is not installed here ({error}).",
            reason="MODEL_HAS_NO_ADAPTER",
            metadata={"folder": folder.name},
        ) from error
    families: dict[str, type[ProcessorAdapter]] = {
        "chameleon": ChameleonAdapter,
        "emu3": Emu3Adapter,
        "janus": JanusAdapter,
    }
    return families.get(read_config(folder).model_type, ProcessorAdapter)(folder, cache)
