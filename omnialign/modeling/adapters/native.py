"""Families that read or write media as tokens of their own vocabulary: what Chameleon, Emu3 and Janus share.

The family's processor and chat template lay out the conversation with one placeholder per medium, which is then
replaced by the span of the medium's codes. So the model sees exactly what the family's own code would give it.
"""

from collections.abc import Iterable, Sequence
from itertools import takewhile
from typing import Any

import torch
from PIL import Image

from omnialign.errors import InvalidArgument
from omnialign.media import MediaError, Pixels
from omnialign.modeling.adapters.processor import PlaceholderPrompt, ProcessorAdapter
from omnialign.modeling.feature_cache import Cache
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
from omnialign.modeling.spans import Slot, SpanCodec, SpanCodecs

MAX_ASPECT = 200
"""Images with a more extreme aspect ratio are refused: resized by their short side they would fill the memory."""


class MediaWritingAdapter(ProcessorAdapter):
    """A processor adapter for a model that also writes media, as spans in its answers."""

    def _set_codecs(self, codecs: Sequence[SpanCodec], cache: Cache) -> None:
        """Sets the span codecs of the model; subclasses call it once."""
        self._spans = SpanCodecs(codecs, cache=cache)
        self.media_spans = self._spans.writable

    def encode_answer(self, pieces: Sequence[Piece], policy: MediaPolicy = NO_BOUNDS) -> list[int]:
        """The ids of an answer as the chat template writes an assistant's turn, including its end."""
        media = [piece for piece in pieces if isinstance(piece, MediaBytes)]
        spans = [self._spans.encode(medium, policy, answer=True)[0] for medium in media]
        ids = list(takewhile(lambda i: i not in self.end_ids, self._answer_ids(pieces)))
        return [*self._fill(ids, spans), self.end_id]

    def decode(self, ids: Sequence[int]) -> Pieces:
        """The answer that `ids` stand for, up to the first end id. Raises AnswerMalformed."""
        return self._spans.decode(list(takewhile(lambda i: i not in self.end_ids, ids)), self._text_of)

    def _text_of(self, ids: Sequence[int]) -> str:
        text: str = self._tokenizer.backend_tokenizer.decode(list(ids), skip_special_tokens=True)
        return text

    def _fill(self, ids: Sequence[int], spans: Sequence[Sequence[int]]) -> list[int]:
        """The ids, with each placeholder replaced by the span of its medium."""
        placeholder = self._tokenizer.convert_tokens_to_ids(self._processor.image_token)
        if (found := list(ids).count(placeholder)) != len(spans):
            raise InvalidArgument(
                f"The model's chat template writes {found} placeholders for {len(spans)} media of the conversation; it "
                f"must write {self._processor.image_token} once per medium.",
                reason="CHAT_TEMPLATE_REFUSED",
            )
        waiting = iter(spans)
        return [i for token in ids for i in (next(waiting) if token == placeholder else (token,))]

    def _content(self, pieces: Sequence[Piece]) -> Any:
        """The content of a message; these templates know one placeholder, that of images, for all media."""
        texts = iter(self._escaper.escape(piece for piece in pieces if isinstance(piece, str)))
        return [
            {"type": "text", "text": next(texts)} if isinstance(piece, str) else {"type": "image"} for piece in pieces
        ]


class NativeTokenAdapter(MediaWritingAdapter):
    """The adapter of a model that also reads its media as codes, so its only inputs are ids."""

    @property
    def reads(self) -> frozenset[int]:
        """The modalities that the model reads besides text, values of `omnialign.v1.Modality`."""
        return self._spans.modalities

    def encode(self, turns: Sequence[Turn], policy: MediaPolicy = NO_BOUNDS) -> ModelInputs:
        """A conversation up to where the answer begins, with the spans of its media."""
        media = [piece for turn in turns for piece in turn.pieces if isinstance(piece, MediaBytes)]
        read = [self._spans.encode(medium, policy) for medium in media]
        ids = self._fill(self._encode_prompt(self._render(turns)), [ids for ids, _ in read])
        losses: tuple[MediaLoss, ...] = tuple(loss for _, loss in read if loss is not None)
        return ModelInputs(ids, losses=losses)

    def features(self, media: Sequence[MediaBytes], policy: MediaPolicy = NO_BOUNDS) -> tuple[MediaFeatures, ...]:
        """None: media are ids."""
        return ()

    def tensors(self, rows: Sequence[ModelInputs], ids: torch.Tensor) -> dict[str, torch.Tensor]:
        """None: the model is given only ids."""
        return {}

    def placeholders(self, turns: Sequence[Turn], policy: MediaPolicy = NO_BOUNDS) -> PlaceholderPrompt:
        """The whole prompt: there is nothing left for an engine to expand."""
        return PlaceholderPrompt(self.encode(turns, policy).ids)


def code_ids(vocabulary: dict[str, int] | None, prefix: str, number_of: Any, *, num_codes: int) -> list[int]:
    """The token id of each code, found by the token names in the model's configuration.

    Raises InvalidArgument MODEL_CONFIG_INVALID if some codes have no token.
    """
    found = {number_of(name): i for name, i in (vocabulary or {}).items() if name.startswith(prefix)}
    if sorted(found) != list(range(num_codes)):
        raise InvalidArgument(
            f"The vocabulary_map of the model's config.json names {len(found)} codes as {prefix!r} tokens, but its "
            f"code book has {num_codes}.",
            reason="MODEL_CONFIG_INVALID",
            metadata={"codes": str(num_codes), "named": str(len(found))},
        )
    return [found[code] for code in range(num_codes)]


def as_slot(ids: Iterable[int]) -> Slot:
    """The ids as ranges; consecutive ids share one."""
    ranges: list[range] = []
    for i in sorted(ids):
        if ranges and ranges[-1].stop == i:
            ranges[-1] = range(ranges[-1].start, i + 1)
        else:
            ranges.append(range(i, i + 1))
    return tuple(ranges)


def to_image(pixels: Pixels) -> Image.Image:
    """Pixels (height, width, 3) as processors take them. Raises MediaError IMAGE_TOO_NARROW."""
    height, width = pixels.shape[:2]
    if max(height, width) > MAX_ASPECT * min(height, width):
        raise MediaError(
            f"The image has {width} x {height} pixels, and this model reads none with sides in a ratio above "
            f"{MAX_ASPECT}; crop it.",
            reason="IMAGE_TOO_NARROW",
        )
    return Image.fromarray(pixels)
