"""VQ models as codecs beside any language model.

Images and frames are scaled to one square, so that all have the same number of codes. Codes are in row-major order.
"""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from omnialign.errors import InvalidArgument
from omnialign.media import MediaError, Pixels, read_image, read_video, write_image, write_video
from omnialign.modeling.codecs.limits import MAX_PIXELS, MAX_RATE, MAX_SIDE, MAX_TOKENS, positive, product, whole
from omnialign.modeling.codecs.residual import read_config
from omnialign.modeling.codecs.vq_models import (
    DECODER_FOLDER,
    ChameleonVq,
    Emu3Vq,
    JanusVq,
    Vq,
    downsampling,
    square,
    to_pixels,
)
from omnialign.modeling.codecs.weights import Weights
from omnialign.v1 import content_pb2


class VqImageCodec:
    """Images scaled to a square of `side_pixels`, which must be a multiple of the model's factor."""

    modality: int = content_pb2.MODALITY_IMAGE
    model_type: str
    vq_class: type[Vq]

    def __init__(self, *, folder: Path, side_pixels: int) -> None:
        config = read_config(folder, self.model_type)
        self.vq = self.vq_class(config, Weights(folder))
        if whole("side_pixels", side_pixels, MAX_SIDE) % self.vq.factor:
            raise ValueError(f"side_pixels must be a multiple of {self.vq.factor}")
        self.side_pixels, self.num_codes = side_pixels, self.vq.num_codes
        self.unit: tuple[range, ...] = (range(self.num_codes),)
        self.min_units = self.max_units = product("tokens", [side_pixels // self.vq.factor] * 2, MAX_TOKENS)

    @cached_property
    def revision(self) -> str:
        """Changes with the weights and the options."""
        return f"{self.vq.revision}/{self.side_pixels}"

    def encode(self, data: bytes) -> list[int]:
        """The codes of an image file."""
        return self.encode_array(read_image(data))

    def encode_array(self, array: Pixels, rate: float = 0.0) -> list[int]:
        """The codes of pixels `(height, width, 3)`."""
        codes: list[int] = self.vq.encode(square(array, self.side_pixels)[None]).flatten().tolist()
        return codes

    def decode(self, codes: Sequence[int]) -> bytes:
        """The PNG that codes stand for. Raises InvalidArgument MODALITY_UNSUPPORTED for a model without a decoder."""
        import torch

        require_decoder(self.vq)
        side = self.side_pixels // self.vq.factor
        return write_image(to_pixels(self.vq.decode(torch.tensor(codes).reshape(side, side))))


class ChameleonImageCodec(VqImageCodec):
    """Images by the VQ model of Chameleon."""

    model_type, vq_class = "chameleon_vqgan", ChameleonVq


class JanusImageCodec(VqImageCodec):
    """Images by the VQ model of Janus, in the size of its configuration."""

    model_type, vq_class = "janus_vqgan", JanusVq

    def __init__(self, *, folder: Path) -> None:
        config = read_config(folder, self.model_type)
        side = whole("num_patches", config.num_patches, MAX_SIDE) * downsampling(config)
        super().__init__(folder=folder, side_pixels=side)


class Emu3ImageCodec(VqImageCodec):
    """Images by the VQ model of Emu3."""

    model_type, vq_class = "emu3_vqgan", Emu3Vq


class Emu3VideoCodec(VqImageCodec):
    """Videos by the VQ model of Emu3, as `min_units` to `max_units` grids of codes, each standing for a few frames.

    Frames are sampled at `frames_per_second`; a video that is too long for that is sampled over its whole length.
    """

    modality = content_pb2.MODALITY_VIDEO
    model_type, vq_class = "emu3_vqgan", Emu3Vq
    vq: Emu3Vq

    def __init__(
        self, *, folder: Path, side_pixels: int, frames_per_second: float, max_units: int, min_units: int = 1
    ) -> None:
        super().__init__(folder=folder, side_pixels=side_pixels)
        whole("min_units", min_units, whole("max_units", max_units, MAX_TOKENS // self.max_units))
        product("pixels", (max_units, self.vq.temporal, side_pixels**2), MAX_PIXELS)
        self.frames_per_second = positive("frames_per_second", frames_per_second, MAX_RATE)
        self.unit = (range(self.num_codes),) * self.max_units
        self.min_units, self.max_units = min_units, max_units

    @cached_property
    def revision(self) -> str:
        """Changes with the weights and the options."""
        return f"{self.vq.revision}/{self.side_pixels}/{self.frames_per_second}/{self.min_units}-{self.max_units}"

    def encode(self, data: bytes) -> list[int]:
        """The codes of a video file."""
        return self.encode_array(*read_video(data))

    def encode_array(self, array: Pixels, rate: float = 0.0) -> list[int]:
        """The codes of frames `(frames, height, width, 3)` at `rate` per second. Raises MediaError if there is none."""
        import torch

        bounds = (self.min_units * self.vq.temporal, self.max_units * self.vq.temporal)
        chosen = sample_frames(len(array), rate, self.frames_per_second, self.vq.temporal, bounds)
        frames = torch.stack([square(array[index], self.side_pixels) for index in chosen])
        codes: list[int] = self.vq.encode_video(frames).flatten().tolist()  # (grids, rows, columns), flattened
        return codes

    def decode(self, codes: Sequence[int]) -> bytes:
        """The MP4 that codes stand for."""
        import torch

        side = self.side_pixels // self.vq.factor
        frames = self.vq.decode_video(torch.tensor(codes).reshape(-1, side, side))
        return write_video(np.stack([to_pixels(frame) for frame in frames]), self.frames_per_second)


def require_decoder(vq: Vq) -> None:
    """Raises InvalidArgument MODALITY_UNSUPPORTED for a model that cannot turn codes into images."""
    if not vq.can_decode:
        raise InvalidArgument(
            f"This model's image codes cannot be decoded; put the weights of its image decoder into {DECODER_FOLDER}/.",
            reason="MODALITY_UNSUPPORTED",
            metadata={"modality": "image"},
        )


def sample_frames(
    num_frames: int, rate: float, wanted_rate: float, multiple: int, bounds: tuple[int, int]
) -> list[int]:
    """The indices of the frames that show a video at `wanted_rate` instead of `rate`.

    Their number is a multiple of `multiple` within `bounds` (multiples of it too). The last frame is repeated where
    there are too few. Raises MediaError for a video without a frame.
    """
    if not num_frames:
        raise MediaError("The video has no frame.")
    seconds = num_frames / (rate or wanted_rate)
    fewest, most = bounds
    count = min(max(fewest, -(-round(seconds * wanted_rate) // multiple) * multiple), most)  # rounded up
    step = max(seconds / count, 1 / wanted_rate)  # a video that is too long is sampled over its whole length
    return [min(int((index + 0.5) * step * (rate or wanted_rate)), num_frames - 1) for index in range(count)]
