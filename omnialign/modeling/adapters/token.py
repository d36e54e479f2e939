"""Token models: every modality is tokens in one vocabulary of a causal LM (the Chameleon, Emu3 and AnyGPT shape).

A conversation is `<s><user>...</user><assistant>` in control tokens; a medium is a span of codes between two of them.
Control tokens are written by this file alone: the same characters in somebody's text are encoded as text.
"""

import json
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path

from tokenizers import Tokenizer

from omnialign.content import NAMES
from omnialign.errors import InvalidArgument
from omnialign.modeling.codecs import CodecRange, load_codecs
from omnialign.modeling.inputs import ModelInputs
from omnialign.modeling.messages import MediaBytes, Piece, Pieces, Turn
from omnialign.modeling.policy import NO_BOUNDS, MediaPolicy

START, END, PAD = "<s>", "</s>", "<pad>"
USER, ASSISTANT = "<user>", "<assistant>"


class AnswerMalformed(InvalidArgument):
    """Ids that are no answer: a media span of wrong length, wrong range or without an end."""

    def __init__(self, message: str) -> None:
        super().__init__(message, reason="ANSWER_MALFORMED")


class TokenAdapter:
    """Adapter of a token model. Build it with `load`."""

    def __init__(self, tokenizer: Tokenizer, codecs: Sequence[CodecRange]) -> None:
        self._tokenizer = tokenizer
        # Without this, text that spells a control token would become one.
        self._tokenizer.encode_special_tokens = True
        self.media_spans = codecs
        self._by_modality = {entry.codec.modality: entry for entry in codecs}
        self._by_begin = {entry.begin_id: entry for entry in codecs}
        self._start_id, self.end_id, self.pad_id = (self._control(name) for name in (START, END, PAD))
        self._roles = {"user": self._control(USER), "assistant": self._control(ASSISTANT)}

    @classmethod
    def load(cls, folder: Path) -> "TokenAdapter":
        """Reads `tokenizer.json` and `codecs.json`. Raises InvalidArgument when they and the model do not fit."""
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        codecs = load_codecs(folder / "codecs.json", tokenizer.token_to_id, tokenizer.get_vocab_size())
        _check_vocabulary(folder / "config.json", max((c.last_id + 1 for c in codecs), default=0))
        return cls(tokenizer, codecs)

    def encode(self, turns: Sequence[Turn], policy: MediaPolicy = NO_BOUNDS) -> ModelInputs:
        """A conversation, up to and with the assistant's mark."""
        ids = [self._start_id]
        for turn in turns:
            ids.append(self._roles[turn.role])
            ids += self._encode_pieces(turn.pieces)
        return ModelInputs([*ids, self._roles["assistant"]])

    def encode_answer(self, pieces: Sequence[Piece], policy: MediaPolicy = NO_BOUNDS) -> list[int]:
        """Ids of an answer, the end id included."""
        return [*self._encode_pieces(pieces), self.end_id]

    def decode(self, ids: Sequence[int]) -> Pieces:
        """The answer that ids stand for. Raises AnswerMalformed."""
        answer = list(takewhile(lambda i: i != self.end_id, ids))
        pieces: list[Piece] = []
        position = 0
        while position < len(answer):
            codec = self._by_begin.get(answer[position])
            length = self._span_length(answer, position, codec)
            span = answer[position : position + length]
            pieces.append(self._decode_text(span) if codec is None else _decode_span(codec, span))
            position += length
        return tuple(piece for piece in pieces if piece != "")

    def _control(self, token: str) -> int:
        token_id = self._tokenizer.token_to_id(token)
        if token_id is None:
            raise InvalidArgument(
                f"The tokenizer has no control token {token}.",
                reason="TOKENIZER_INVALID",
                metadata={"token": token},
            )
        return int(token_id)

    def _encode_pieces(self, pieces: Sequence[Piece]) -> list[int]:
        ids: list[int] = []
        for piece in pieces:
            if isinstance(piece, str):
                ids += self._tokenizer.encode(piece, add_special_tokens=False).ids
            else:
                ids += self._encode_media(piece)
        return ids

    def _encode_media(self, media: MediaBytes) -> list[int]:
        entry = self._by_modality.get(media.modality)
        if entry is None:
            name = NAMES.get(media.modality, str(media.modality))
            raise InvalidArgument(
                f"This model does not read {name}.", reason="MODALITY_UNSUPPORTED", metadata={"modality": name}
            )
        codes = entry.codec.encode(media.data)
        return [entry.begin_id, *(entry.first_id + code for code in codes), entry.end_id]

    def _span_length(self, ids: Sequence[int], position: int, codec: CodecRange | None) -> int:
        if codec is not None:
            return codec.codec.num_codes_per_medium + 2
        text = takewhile(lambda i: i not in self._by_begin, ids[position:])
        return sum(1 for _ in text)

    def _decode_text(self, ids: Sequence[int]) -> str:
        if any(i >= self._tokenizer.get_vocab_size() for i in ids):
            raise AnswerMalformed("The answer has media codes outside a media span.")
        text: str = self._tokenizer.decode(ids, skip_special_tokens=True)
        return text.strip()


def _decode_span(entry: CodecRange, span: Sequence[int]) -> MediaBytes:
    """Media of `begin, codes, end`. Raises AnswerMalformed."""
    name = NAMES[entry.codec.modality]
    codes = [i - entry.first_id for i in span[1:-1]]
    whole = len(span) == entry.codec.num_codes_per_medium + 2 and span[-1] == entry.end_id
    if not whole or not all(0 <= code < entry.codec.num_codes for code in codes):
        raise AnswerMalformed(f"The {name} span of the answer is not {entry.codec.num_codes_per_medium} {name} codes.")
    return MediaBytes(entry.codec.modality, entry.codec.decode(codes))


def _check_vocabulary(config: Path, needed: int) -> None:
    if config.is_file() and (size := int(json.loads(config.read_text()).get("vocab_size", needed))) < needed:
        raise InvalidArgument(
            f"The codecs use {needed} token ids, but the model has {size}.",
            reason="CODEC_RANGE_INVALID",
            metadata={"needed": str(needed), "vocabulary": str(size)},
        )
