"""Janus: reads pictures through a tower of features, as other processor models do, and writes them as codes.

The family has a vocabulary and a head of its own for the codes. `writers.JanusForConditionalGeneration` puts both after
the text's, so that engines and trainers see one vocabulary: code k is id `text vocabulary + k`. A picture that is
written is `<begin_of_image>`, as many codes as its grid has, `<end_of_image>`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from omnialign.media import write_image
from omnialign.modeling.adapters.native import WritingAdapter
from omnialign.modeling.codecs.vq_models import JanusVq, square, to_pixels
from omnialign.modeling.codecs.weights import Weights
from omnialign.modeling.decoding import decode
from omnialign.modeling.feature_cache import NO_CACHE, Cache
from omnialign.modeling.inputs import MediaBytes, MediaLoss, MediaPolicy
from omnialign.modeling.model_folder import read_config
from omnialign.modeling.spans import MediaSpan, slot
from omnialign.v1 import content_pb2


class JanusPictures:
    """The span codec of pictures in answers."""

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
        """Pictures are codes in answers alone."""
        return f"{self._revision}/{self._vq.revision}/answer"

    def encode(self, media: MediaBytes, policy: MediaPolicy, *, answer: bool) -> tuple[list[int], MediaLoss | None]:
        """The span of a picture, scaled to the square that the model writes."""
        decoded = decode(media, policy)
        codes = self._vq.encode(square(decoded.array, self._grid * self._vq.factor)[None]).flatten() + self._first
        return [self.span.begin_id, *codes.tolist(), self.span.end_id], decoded.loss

    def decode(self, ids: Sequence[int]) -> bytes:
        """A PNG of a span."""
        codes = torch.tensor(ids[1:-1]) - self._first
        return write_image(to_pixels(self._vq.decode(codes.reshape(self._grid, self._grid))))


class JanusAdapter(WritingAdapter):
    """Adapter of Janus."""

    def __init__(self, folder: Path, cache: Cache = NO_CACHE) -> None:
        super().__init__(folder, cache)
        self._use([JanusPictures(self._processor, read_config(folder), folder, self.revision)], cache)
