"""Chameleon: pictures are spans of codes, `<racm3:break>`, 1024 codes, `<eoss>`, in prompts and in answers.

A picture is read as the family's processor prepares it: its middle square. Writing pictures needs the VQ decoder's
weights beside the model (`codecs.vq.ChameleonVq`); without them the model reads pictures and writes text.
"""

from collections.abc import Sequence
from math import isqrt
from pathlib import Path
from typing import Any

import numpy as np
import torch

from omnialign.media import write_image
from omnialign.modeling.adapters.native import NativeTokenAdapter, as_slot, code_ids, to_image
from omnialign.modeling.codecs.vq_models import ChameleonVq, to_pixels
from omnialign.modeling.codecs.weights import Weights
from omnialign.modeling.decoding import decode
from omnialign.modeling.feature_cache import NO_CACHE, Cache
from omnialign.modeling.inputs import MediaBytes, MediaLoss, MediaPolicy
from omnialign.modeling.model_folder import read_config
from omnialign.modeling.spans import MediaSpan
from omnialign.v1 import content_pb2

TEMPLATE = (
    "{% for message in messages %}{% for content in message['content'] %}"
    "{% if content['type'] == 'image' %}<image>{% else %}{{ content['text'] }}{% endif %}{% endfor %}"
    "{{ sep_token if message['role'] != 'assistant' else eos_token }}{% endfor %}"
)
"""The family ships no template; this is how its processor writes a conversation: each turn ends with a token."""

LETTER_DIGITS = {letter: str(digit) for digit, letter in enumerate("ABCDEFGHIJ")}


class ChameleonImageSpans:
    """The span codec of images."""

    modality = content_pb2.MODALITY_IMAGE

    def __init__(self, processor: Any, config: Any, folder: Path, revision: str) -> None:
        self._processor, self._revision = processor, revision
        self._vq = ChameleonVq(config.vq_config, Weights(folder, "vqmodel"))
        self._ids = np.array(code_ids(config.vocabulary_map, "IMGIMG", _code, num_codes=self._vq.num_codes))
        self._codes = {i: code for code, i in enumerate(self._ids.tolist())}
        codes, count = as_slot(self._codes), processor.image_seq_length
        self.can_decode = self._vq.can_decode
        self.span = MediaSpan(
            processor.image_start_token_id, processor.image_end_token_id, (codes,), count, count, codes
        )

    def revision(self, *, answer: bool) -> str:
        """The same in prompts and in answers."""
        return f"{self._revision}/{self._vq.revision}"

    def encode(self, media: MediaBytes, policy: MediaPolicy, *, answer: bool) -> tuple[list[int], MediaLoss | None]:
        """The span of an image."""
        decoded = decode(media, policy)
        prepared = self._processor.image_processor(images=[to_image(decoded.array)], return_tensors="pt")
        codes = self._vq.encode(prepared["pixel_values"]).flatten().numpy()  # (rows * columns,)
        return [self.span.begin_id, *self._ids[codes].tolist(), self.span.end_id], decoded.loss

    def decode(self, ids: Sequence[int]) -> bytes:
        """The PNG that a span stands for."""
        codes = torch.tensor([self._codes[i] for i in ids[1:-1]])
        return write_image(to_pixels(self._vq.decode(codes.reshape(isqrt(len(codes)), -1))))


class ChameleonAdapter(NativeTokenAdapter):
    """The adapter of Chameleon."""

    default_template = TEMPLATE

    def __init__(self, folder: Path, cache: Cache = NO_CACHE) -> None:
        super().__init__(folder, cache)
        self._set_codecs([ChameleonImageSpans(self._processor, read_config(folder), folder, self.revision)], cache)


def _code(name: str) -> int:
    """The code in the name of a token, `IMGIMG` + its digits as letters (A is 0, J is 9) + a final letter to ignore."""
    return int("".join(LETTER_DIGITS.get(letter, letter) for letter in name.removeprefix("IMGIMG")[:-1]))
