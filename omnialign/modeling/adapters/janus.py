"""Janus: reads images through a vision tower, as other processor models do, and writes them as codes.

The family has a separate vocabulary and head for the codes. `patched_models.JanusForConditionalGeneration` appends both
to those of the text, so that engines and trainers see one vocabulary: code k is the id `text vocabulary + k`. A written
image is `<begin_of_image>`, the codes of its grid row by row, `<end_of_image>`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from omnialign.media import write_image
from omnialign.modeling.adapters.native import MediaWritingAdapter
from omnialign.modeling.codecs.vq_models import JanusVq, square, to_pixels
from omnialign.modeling.codecs.weights import Weights
from omnialign.modeling.decoding import decode
from omnialign.modeling.feature_cache import NO_CACHE, Cache
from omnialign.modeling.inputs import MediaBytes, MediaLoss, MediaPolicy
from omnialign.modeling.model_folder import read_config
from omnialign.modeling.spans import MediaSpan, slot
from omnialign.v1 import content_pb2


class JanusImageSpans:
    """The span codec of images in answers."""

    modality = content_pb2.MODALITY_IMAGE
    can_decode = True

    def __init__(self, processor: Any, config: Any, folder: Path, revision: str) -> None:
        self._vq, self._revision = JanusVq(config.vq_config, Weights(folder, "vqmodel")), revision
        self._grid = int(config.vq_config.num_patches)
        self._first = int(config.text_config.vocab_size)
        begin, end = processor.tokenizer.convert_tokens_to_ids([processor.image_start_token, processor.image_end_token])
        codes = slot(self._first, self._first + self._vq.num_codes - 1)
        self.span = MediaSpan(begin, end, (codes,), self._grid**2, self._grid**2, codes)

    def revision(self, *, answer: bool) -> str:
        """Images are codes only in answers."""
        return f"{self._revision}/{self._vq.revision}/answer"

    def encode(self, media: MediaBytes, policy: MediaPolicy, *, answer: bool) -> tuple[list[int], MediaLoss | None]:
        """The span of an image, scaled to the square that the model writes."""
        decoded = decode(media, policy)
        pixels = square(decoded.array, self._grid * self._vq.factor)[None]  # (1, 3, side, side)
        codes = self._vq.encode(pixels).flatten() + self._first
        return [self.span.begin_id, *codes.tolist(), self.span.end_id], decoded.loss

    def decode(self, ids: Sequence[int]) -> bytes:
        """The PNG that a span stands for."""
        codes = torch.tensor(ids[1:-1]) - self._first
        return write_image(to_pixels(self._vq.decode(codes.reshape(self._grid, self._grid))))


class JanusAdapter(MediaWritingAdapter):
    """The adapter of Janus."""

    def __init__(self, folder: Path, cache: Cache = NO_CACHE) -> None:
        super().__init__(folder, cache)
        self._set_codecs([JanusImageSpans(self._processor, read_config(folder), folder, self.revision)], cache)
