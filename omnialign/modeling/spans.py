"""Media as spans of token ids: the grammar of a span, and reading and writing whole spans among text.

    begin_id  head ...  unit unit ... unit  end_id

The grammar covers every family of token models: one code per unit (a VQ image of Chameleon), one unit per frame with a
code of every codebook (EnCodec, DAC, Mimi), or a size in words before rows that end with a mark (Emu3). Engines use it
to keep a model from writing anything else inside a span; adapters use it to read what was written.

A family provides a `SpanCodec` for each modality; `SpanCodecs` does the rest for all of them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Protocol

import numpy as np

from omnialign.content import NAMES
from omnialign.errors import InvalidArgument
from omnialign.modeling.feature_cache import NO_CACHE, Cache, feature_key, split_loss, with_loss
from omnialign.modeling.feature_file import Arrays
from omnialign.modeling.inputs import NO_BOUNDS, MediaBytes, MediaLoss, MediaPolicy, Piece, Pieces

Slot = tuple[range, ...]
"""The ids that are allowed at one position, as ranges."""


def slot(first_id: int, last_id: int | None = None) -> Slot:
    """The ids from `first_id` to `last_id` inclusive; `first_id` alone without a `last_id`."""
    return (range(first_id, (first_id if last_id is None else last_id) + 1),)


def union(slots: Sequence[Slot]) -> Slot:
    """The ids that any of `slots` allows."""
    return tuple(dict.fromkeys(ids for entry in slots for ids in entry))


@dataclass(frozen=True)
class MediaSpan:
    """`begin_id`, then `head`, then `unit` repeated `min_units` to `max_units` times, then `end_id`.

    `codes` are the ids that occur only inside such spans; a model may not write them anywhere else. `end_id` occurs
    only at the end, so a span can be delimited without parsing it.
    """

    begin_id: int
    end_id: int
    unit: tuple[Slot, ...]
    min_units: int
    max_units: int
    codes: Slot
    head: tuple[Slot, ...] = ()

    def allowed(self, position: int) -> Slot:
        """What is allowed `position` tokens after the begin id; includes the end id where the span may end."""
        if position < len(self.head):
            return self.head[position]
        units, offset = divmod(position - len(self.head), len(self.unit))
        if offset:  # inside a unit: a span ends only between units
            return self.unit[offset]
        more = self.unit[0] if units < self.max_units else ()
        return (*more, range(self.end_id, self.end_id + 1)) if units >= self.min_units else more

    def num_units(self, ids: Sequence[int]) -> int:
        """The number of units in `ids`, begin and end included; 0 if they are not a well-formed span."""
        if len(ids) < 2 or ids[0] != self.begin_id or ids[-1] != self.end_id:
            return 0
        units, rest = divmod(len(ids) - 2 - len(self.head), len(self.unit))
        if rest or not self.min_units <= units <= self.max_units:
            return 0
        expected = zip(ids[1:-1], (*self.head, *self.unit * units), strict=True)
        return units if all(any(i in part for part in allowed) for i, allowed in expected) else 0

    @property
    def max_tokens(self) -> int:
        """The length of the longest span, begin and end included."""
        return 2 + len(self.head) + self.max_units * len(self.unit)


class AnswerMalformed(InvalidArgument):
    """Ids that are not a valid answer: a media span of the wrong length, with wrong ids or without an end."""

    def __init__(self, message: str) -> None:
        super().__init__(message, reason="ANSWER_MALFORMED")


class SpanCodec(Protocol):
    """Converts media of one modality to whole spans of token ids (begin and end included) and back."""

    @property
    def modality(self) -> int:
        """A value of `omnialign.v1.Modality`."""

    @property
    def span(self) -> MediaSpan:
        """The grammar of the spans that the model writes."""

    @property
    def can_decode(self) -> bool:
        """Whether spans can be turned into files; if not, engines keep the model from writing them."""

    def revision(self, *, answer: bool) -> str:
        """A string that changes whenever the same medium may give other ids, in a prompt or in an answer."""

    def encode(self, media: MediaBytes, policy: MediaPolicy, *, answer: bool) -> tuple[list[int], MediaLoss | None]:
        """The span of a medium in a prompt or in an answer, and what was lost of it. Raises MediaError."""

    def decode(self, ids: Sequence[int]) -> bytes:
        """The media file that a well-formed span stands for."""


class SpanCodecs:
    """The span codecs of one model: encodes media through the feature cache, and decodes answers that hold media."""

    def __init__(self, codecs: Sequence[SpanCodec], *, cache: Cache = NO_CACHE) -> None:
        self._cache = cache
        self._codecs = {codec.modality: codec for codec in codecs}
        self._begins = {codec.span.begin_id for codec in codecs}
        self._writable = [codec for codec in codecs if codec.can_decode]
        self.writable: Sequence[MediaSpan] = [codec.span for codec in self._writable]
        """The spans that the model may write."""

    @property
    def modalities(self) -> frozenset[int]:
        """The modalities that have a codec."""
        return frozenset(self._codecs)

    def encode(
        self, media: MediaBytes, policy: MediaPolicy = NO_BOUNDS, *, answer: bool = False
    ) -> tuple[list[int], MediaLoss | None]:
        """The span of a medium in a prompt or an answer, and what was lost of it.

        Raises InvalidArgument MODALITY_UNSUPPORTED, and MediaError.
        """
        codec = self._codecs.get(media.modality)
        if codec is None:
            raise unsupported(media.modality)
        key = feature_key(media.sha256, f"{codec.revision(answer=answer)}/{media.modality}", policy)
        arrays, loss = split_loss(self._cache.get(key, _make_ids(codec, media, policy, answer)))
        return arrays["ids"].tolist(), loss

    def decode(self, answer: Sequence[int], text_of: Callable[[Sequence[int]], str]) -> Pieces:
        """The text and media of an answer, given without its end id. Raises AnswerMalformed."""
        pieces: list[Piece] = []
        position = 0
        while position < len(answer):
            rest = answer[position:]
            is_span = rest[0] in self._begins
            part = self._span(rest) if is_span else list(takewhile(lambda i: i not in self._begins, rest))
            pieces.append(self._decode_span(part) if is_span else self._decode_text(part, text_of))
            position += len(part)
        return tuple(piece for piece in pieces if piece != "")

    def _span(self, ids: Sequence[int]) -> list[int]:
        """The ids up to and with the next end id of this begin id, or all of them."""
        end_ids = {codec.span.end_id for codec in self._codecs.values() if codec.span.begin_id == ids[0]}
        end = next((index for index, i in enumerate(ids) if i in end_ids), len(ids) - 1)
        return list(ids[: end + 1])

    def _decode_text(self, ids: Sequence[int], text_of: Callable[[Sequence[int]], str]) -> str:
        codes = union([codec.span.codes for codec in self._codecs.values()])
        if any(i in part for part in codes for i in ids):
            raise AnswerMalformed("The answer has media codes outside a media span.")
        return text_of(ids).strip()

    def _decode_span(self, ids: Sequence[int]) -> MediaBytes:
        """The medium of a whole span. Raises AnswerMalformed."""
        for codec in self._writable:
            if codec.span.num_units(ids):
                return MediaBytes(codec.modality, codec.decode(ids))
        begun = [codec for codec in self._codecs.values() if codec.span.begin_id == ids[0]]
        names = " or ".join(f"{NAMES[codec.modality]} of {_lengths(codec.span)} tokens" for codec in begun)
        raise AnswerMalformed(f"A media span of {len(ids)} tokens is not a valid {names}.")


def unsupported(modality: int) -> InvalidArgument:
    """The error for a medium that a model cannot read."""
    name = NAMES.get(modality, str(modality))
    return InvalidArgument(
        f"This model does not read {name}.", reason="MODALITY_UNSUPPORTED", metadata={"modality": name}
    )


def _make_ids(codec: SpanCodec, media: MediaBytes, policy: MediaPolicy, answer: bool) -> Callable[[], Arrays]:
    def make() -> Arrays:
        ids, loss = codec.encode(media, policy, answer=answer)
        return with_loss({"ids": np.asarray(ids, dtype=np.int32)}, loss)

    return make


def _lengths(span: MediaSpan) -> str:
    fewest = span.max_tokens - (span.max_units - span.min_units) * len(span.unit)
    return str(span.max_tokens) if fewest == span.max_tokens else f"{fewest} to {span.max_tokens}"
