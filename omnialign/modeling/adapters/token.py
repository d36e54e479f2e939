"""Token models with a `codecs.json`: a plain causal LM whose vocabulary includes the codes of codecs (as in AnyGPT).

    <s> <user> text <image> codes </image> text <assistant> answer </s>

Only this file writes control tokens: the same characters in a user's text are encoded as text.
"""

import hashlib
import json
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING

from tokenizers import Tokenizer

from omnialign.errors import InvalidArgument
from omnialign.modeling.codecs import CodecRange, load_codecs
from omnialign.modeling.decoding import Decoder, decode
from omnialign.modeling.feature_cache import NO_CACHE, Cache
from omnialign.modeling.inputs import (
    NO_BOUNDS,
    MediaBytes,
    MediaFeatures,
    MediaLoss,
    MediaPolicy,
    ModelInputs,
    Piece,
    Pieces,
    Turn,
)
from omnialign.modeling.spans import AnswerMalformed, SpanCodecs

if TYPE_CHECKING:
    import torch

__all__ = ["AnswerMalformed", "TokenAdapter"]

START, END, PAD = "<s>", "</s>", "<pad>"
SYSTEM, USER, ASSISTANT = "<system>", "<user>", "<assistant>"


class RangeCodec:
    """A span codec whose codes are one range of ids, between two control ids."""

    can_decode = True

    def __init__(self, entry: CodecRange, revision: str, decoder: Decoder) -> None:
        self.entry, self.span, self.modality = entry, entry.span, entry.codec.modality
        self._revision, self._decoder = revision, decoder

    def revision(self, *, answer: bool) -> str:
        """The revision of `codecs.json`, and of the codec's weights if it has any."""
        return f"{self._revision}/{getattr(self.entry.codec, 'revision', '')}"

    def encode(self, media: MediaBytes, policy: MediaPolicy, *, answer: bool) -> tuple[list[int], MediaLoss | None]:
        """The span of a medium."""
        decoded = self._decoder(media, policy)
        codes = self.entry.codec.encode_array(decoded.even, decoded.rate)
        return [self.entry.begin_id, *(self.entry.first_id + code for code in codes), self.entry.end_id], decoded.loss

    def decode(self, ids: Sequence[int]) -> bytes:
        """The media file of a span."""
        return self.entry.codec.decode([i - self.entry.first_id for i in ids[1:-1]])


class TokenAdapter:
    """The adapter of a token model. Build it with `load`. `decoder` turns media into what the codecs read."""

    unwritable_ids: Sequence[int] = ()
    """None: media are codes, which `media_spans` knows."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        codecs: Sequence[CodecRange],
        *,
        revision: str = "",
        cache: Cache = NO_CACHE,
        decoder: Decoder = decode,
    ) -> None:
        self._spans = SpanCodecs([RangeCodec(entry, revision, decoder) for entry in codecs], cache=cache)
        self.media_spans = self._spans.writable
        self.revision = revision
        self._tokenizer = tokenizer
        # Otherwise text that spells a control token would become one.
        self._tokenizer.encode_special_tokens = True
        self._start_id, self.end_id, self.pad_id = (self._control(name) for name in (START, END, PAD))
        self.end_ids: Sequence[int] = (self.end_id,)
        self._roles = {"user": self._control(USER), "assistant": self._control(ASSISTANT)}
        if (system_id := tokenizer.token_to_id(SYSTEM)) is not None:
            self._roles["system"] = int(system_id)

    @classmethod
    def load(cls, folder: Path, cache: Cache = NO_CACHE) -> "TokenAdapter":
        """Reads `tokenizer.json` and `codecs.json`. Raises InvalidArgument if they do not fit the model."""
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        codecs = load_codecs(folder / "codecs.json", tokenizer.token_to_id, tokenizer.get_vocab_size())
        _check_vocabulary(folder / "config.json", max((c.last_id + 1 for c in codecs), default=0))
        revision = hashlib.sha256((folder / "codecs.json").read_bytes()).hexdigest()[:16]
        return cls(tokenizer, codecs, revision=revision, cache=cache)

    def encode(self, turns: Sequence[Turn], policy: MediaPolicy = NO_BOUNDS) -> ModelInputs:
        """A conversation, up to and including the assistant's token. Raises InvalidArgument ROLE_UNSUPPORTED."""
        ids, losses = [self._start_id], list[MediaLoss]()
        for turn in turns:
            if turn.role not in self._roles:
                raise _role_unsupported(turn.role)
            ids += [self._roles[turn.role], *self._encode_pieces(turn.pieces, policy, losses)]
        return ModelInputs([*ids, self._roles["assistant"]], losses=tuple(losses))

    def encode_answer(self, pieces: Sequence[Piece], policy: MediaPolicy = NO_BOUNDS) -> list[int]:
        """The ids of an answer, including the end id."""
        return [*self._encode_pieces(pieces, policy, []), self.end_id]

    def decode(self, ids: Sequence[int]) -> Pieces:
        """The answer that `ids` stand for. Raises AnswerMalformed."""
        return self._spans.decode(list(takewhile(lambda i: i != self.end_id, ids)), self._decode_text)

    def features(self, media: Sequence[MediaBytes], policy: MediaPolicy = NO_BOUNDS) -> tuple[MediaFeatures, ...]:
        """None: the model reads media as ids."""
        return ()

    def tensors(self, rows: Sequence[ModelInputs], ids: "torch.Tensor") -> dict[str, "torch.Tensor"]:
        """None: a token model sees only ids."""
        return {}

    def _encode_pieces(self, pieces: Sequence[Piece], policy: MediaPolicy, losses: list[MediaLoss]) -> list[int]:
        """The ids of text and media; adds what was lost of the media to `losses`."""
        ids: list[int] = []
        for piece in pieces:
            if isinstance(piece, str):
                ids += self._tokenizer.encode(piece, add_special_tokens=False).ids
            else:
                span, loss = self._spans.encode(piece, policy)
                ids += span
                losses += [loss] if loss else []
        return ids

    def _control(self, token: str) -> int:
        token_id = self._tokenizer.token_to_id(token)
        if token_id is None:
            raise InvalidArgument(
                f"The tokenizer has no control token {token}; add it to tokenizer.json as a special token.",
                reason="TOKENIZER_INVALID",
                metadata={"token": token},
            )
        return int(token_id)

    def _decode_text(self, ids: Sequence[int]) -> str:
        if any(i >= self._tokenizer.get_vocab_size() for i in ids):
            raise AnswerMalformed("The answer has ids that neither its tokenizer nor a codec knows.")
        text: str = self._tokenizer.decode(ids, skip_special_tokens=True)
        return text


def _role_unsupported(role: str) -> InvalidArgument:
    return InvalidArgument(
        f"The model's tokenizer has no control token <{role}>, so it reads no message of that role; put the text at "
        "the beginning of the next message of the user.",
        reason="ROLE_UNSUPPORTED",
        metadata={"role": role},
    )


def _check_vocabulary(config: Path, needed: int) -> None:
    if config.is_file() and (size := int(json.loads(config.read_text()).get("vocab_size", needed))) < needed:
        raise InvalidArgument(
            f"The codecs use {needed} token ids, but the model has {size}; resize its embeddings or edit codecs.json.",
            reason="CODEC_RANGE_INVALID",
            metadata={"needed": str(needed), "vocabulary": str(size)},
        )
