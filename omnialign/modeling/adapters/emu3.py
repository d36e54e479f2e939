"""Emu3: an image is its size in words, then rows of codes that end with a mark; a video is several such grids.

    <|image start|>90*90<|image token|> (90 codes <|extra_200|>) x 90 <|extra_201|> <|image end|>

Images in prompts have the size that the family's processor gives them. Images in answers all have one size, the
family's own for generation within the limits of the folder's image processor, so that a model is trained on exactly
what it may write. Transformers has no format for videos of Emu3: here `grids*rows*columns` is followed by that many
grids, each standing for four frames and ending with `<|extra_201|>`, as in the published training code of the family.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from omnialign.media import MediaError, write_image, write_video
from omnialign.modeling.adapters.native import NativeTokenAdapter, as_slot, code_ids, to_image
from omnialign.modeling.codecs.vq_codecs import sample_frames
from omnialign.modeling.codecs.vq_models import Emu3Vq
from omnialign.modeling.codecs.weights import Weights
from omnialign.modeling.decoding import DecodedMedia, decode
from omnialign.modeling.feature_cache import NO_CACHE, Cache
from omnialign.modeling.inputs import MediaBytes, MediaLoss, MediaPolicy
from omnialign.modeling.model_folder import read_config
from omnialign.modeling.spans import MediaSpan, slot
from omnialign.v1 import content_pb2

FRAMES_PER_SECOND = 8.0
"""Rate at which videos are read, unless the policy sets one, and at which they are written."""
WRITTEN_GRIDS = 2
"""Grids of a written video: eight frames, one second."""
END_OF_ROW = "<|extra_200|>"


class Emu3Spans:
    """What images and videos share: the layout of grids. `shape` is (grids, rows, columns) of media in answers."""

    modality: int = content_pb2.MODALITY_IMAGE

    def __init__(self, processor: Any, config: Any, vq: Emu3Vq, revision: str, shape: tuple[int, int, int]) -> None:
        self._processor, self._vq, self._revision, self._shape = processor, vq, revision, shape
        vocabulary = config.vocabulary_map
        self._ids = np.array(code_ids(vocabulary, "<|visual token ", _code, num_codes=vq.num_codes))
        self._codes = {i: code for code, i in enumerate(self._ids.tolist())}
        names = ("image_start_token", "fake_token_around_image", "eof_token", "image_end_token")
        self._begin, self._first, self._end_of_grid, self._end = (
            processor.tokenizer.convert_tokens_to_ids(getattr(processor, name)) for name in names
        )
        self._end_of_row = int(vocabulary[END_OF_ROW])
        self.can_decode = True
        self.span = self._span(*shape)

    def revision(self, *, answer: bool) -> str:
        """Differs between prompts and answers: media in answers have one size."""
        return f"{self._revision}/{self._vq.revision}/{self._shape if answer else 'prompt'}"

    def encode(self, media: MediaBytes, policy: MediaPolicy, *, answer: bool) -> tuple[list[int], MediaLoss | None]:
        """The span of a medium."""
        decoded = decode(media, policy)
        codes = self._encode(decoded, policy, answer=answer)  # (grids, rows, columns)
        # A mark after each row, (grids, rows, columns + 1); one after each grid, (grids, rows * (columns + 1) + 1).
        marked = np.pad(self._ids[codes.numpy()], ((0, 0), (0, 0), (0, 1)), constant_values=self._end_of_row)
        grids = np.pad(marked.reshape(len(marked), -1), ((0, 0), (0, 1)), constant_values=self._end_of_grid)
        return [self._begin, *self._head(*codes.shape), *grids.flatten().tolist(), self._end], decoded.loss

    def _grids(self, ids: Sequence[int]) -> torch.Tensor:
        """The codes `(grids, rows, columns)` of a well-formed span."""
        return torch.tensor([self._codes[i] for i in ids if i in self._codes]).reshape(self._shape)

    def _size(self, grids: int, rows: int, columns: int) -> str:
        """The size in words, as it precedes the codes."""
        return f"{rows}*{columns}"

    def _head(self, grids: int, rows: int, columns: int) -> list[int]:
        """The ids of the size, and the mark before the first row."""
        tokenizer = self._processor.tokenizer.backend_tokenizer  # the Python wrapper is not thread-safe
        size = tokenizer.encode(self._size(grids, rows, columns), add_special_tokens=False)
        return [*size.ids, self._first]

    def _span(self, grids: int, rows: int, columns: int) -> MediaSpan:
        """The grammar of media of one size; a unit is one grid."""
        codes, head = as_slot(self._codes), tuple(slot(i) for i in self._head(grids, rows, columns))
        unit = (*((codes,) * columns + (slot(self._end_of_row),)) * rows, slot(self._end_of_grid))
        reserved = as_slot([*self._codes, self._first, self._end_of_row, self._end_of_grid])
        return MediaSpan(self._begin, self._end, unit, grids, grids, reserved, head)

    def _encode(self, decoded: DecodedMedia, policy: MediaPolicy, *, answer: bool) -> torch.Tensor:
        """The codes `(grids, rows, columns)` of a decoded medium."""
        pixels = self._prepared(to_image(decoded.array), *(self._shape[1:] if answer else (0, 0)))
        codes: torch.Tensor = self._vq.encode(pixels)
        return codes[None]

    def _prepared(self, image: Image.Image, rows: int, columns: int) -> torch.Tensor:
        """An image `(1, 3, height, width)` as the family prepares it, in the family's own size if `rows` is 0."""
        options = {}
        if rows:
            image = image.resize((columns * self._vq.factor, rows * self._vq.factor), Image.Resampling.BICUBIC)
            options = {"do_resize": False}
        try:
            prepared = self._processor.image_processor(images=[image], return_tensors="pt", **options)
        except ValueError as error:
            raise MediaError(f"The model's processor refuses the image: {error}.", reason="MEDIA_REFUSED") from error
        return torch.as_tensor(prepared["pixel_values"])

    def _to_pixels(self, pixels: torch.Tensor) -> Any:
        """RGB pixels `(height, width, 3)` of a float tensor `(3, height, width)`, by the family's own processor."""
        images = self._processor.image_processor.postprocess([pixels.numpy()], input_data_format="channels_first")
        return np.asarray(images["pixel_values"][0])


class Emu3ImageSpans(Emu3Spans):
    """The span codec of images."""

    def decode(self, ids: Sequence[int]) -> bytes:
        """The PNG that a span stands for."""
        return write_image(self._to_pixels(self._vq.decode(self._grids(ids)[0])))


class Emu3VideoSpans(Emu3Spans):
    """The span codec of videos. Videos in prompts have at most `max_grids` grids."""

    modality = content_pb2.MODALITY_VIDEO
    max_grids = 1

    def decode(self, ids: Sequence[int]) -> bytes:
        """The MP4 that a span stands for."""
        frames = self._vq.decode_video(self._grids(ids))
        return write_video(np.stack([self._to_pixels(frame) for frame in frames]), FRAMES_PER_SECOND)

    def _size(self, grids: int, rows: int, columns: int) -> str:
        return f"{grids}*{rows}*{columns}"

    def _encode(self, decoded: DecodedMedia, policy: MediaPolicy, *, answer: bool) -> torch.Tensor:
        grids, rows, columns = self._shape
        bounds = (grids, grids) if answer else (1, self.max_grids)
        wanted = policy.frames_per_second or FRAMES_PER_SECOND
        step = self._vq.temporal
        shown = decoded.even
        chosen = sample_frames(len(shown), decoded.rate, wanted, step, (bounds[0] * step, bounds[1] * step))
        frames = [self._prepared(to_image(shown[index]), rows, columns)[0] for index in chosen]
        codes: torch.Tensor = self._vq.encode_video(torch.stack(frames))
        return codes


class Emu3Adapter(NativeTokenAdapter):
    """The adapter of Emu3."""

    def __init__(self, folder: Path, cache: Cache = NO_CACHE) -> None:
        super().__init__(folder, cache)
        config, images = read_config(folder), self._processor.image_processor
        vq = Emu3Vq(config.vq_config, Weights(folder, "vqmodel"))
        # Written images: the family's area for generation, within the folder's limits. Videos: its smallest size.
        area = min(max(self._processor.image_area, images.min_pixels), images.max_pixels)
        side, low = (round(pixels**0.5) // vq.factor for pixels in (area, images.min_pixels))
        image_spans = Emu3ImageSpans(self._processor, config, vq, self.revision, (1, side, side))
        video_spans = Emu3VideoSpans(self._processor, config, vq, self.revision, (WRITTEN_GRIDS, low, low))
        half_context = config.get_text_config(decoder=True).max_position_embeddings // 2
        video_spans.max_grids = max(1, half_context // len(video_spans.span.unit))  # a video leaves half the context
        self._set_codecs([image_spans, video_spans], cache)

    def _encode_prompt(self, rendered: str) -> list[int]:
        """The ids of a rendered prompt, with the begin token that the family's processor puts before every text."""
        ids, begin = super()._encode_prompt(rendered), self._tokenizer.bos_token_id
        return ids if begin is None or ids[:1] == [begin] else [begin, *ids]


def _code(name: str) -> int:
    """The code of a token by the number in its name."""
    return int(name.removeprefix("<|visual token ").removesuffix("|>"))
