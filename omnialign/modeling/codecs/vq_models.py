"""Vector-quantising autoencoders for images and videos: those of Chameleon, Janus and Emu3.

`Vq` is one such model, in a folder of its own or as a part of a language model's weights. The families' adapters use it
with their own preprocessing; `vq_codecs` puts it beside any causal language model.
"""

from abc import ABC, abstractmethod
from functools import cached_property, partial
from typing import Any

import numpy as np
from PIL import Image

from omnialign.media import Pixels
from omnialign.modeling.codecs.limits import MAX_CODES, whole
from omnialign.modeling.codecs.weights import LazyModule, Weights, load_folder, load_part

DECODER_FOLDER = "image_decoder"
MAX_LEVELS = 12
"""Resolutions of a codec; each is half the one before."""


def downsampling(config: Any) -> int:
    """The pixels along a side of the square that one code stands for. Raises ValueError."""
    levels = whole("the length of channel_multiplier", len(config.channel_multiplier), MAX_LEVELS)
    return int(2 ** (levels - 1))


class Vq(ABC):
    """A vector-quantising autoencoder. One code stands for a square of `factor` x `factor` pixels."""

    def __init__(self, config: Any, weights: Weights) -> None:
        self.config, self.weights = config, weights
        self.factor = downsampling(config)
        self._module = LazyModule(self._load)

    @property
    def num_codes(self) -> int:
        """The size of the codebook."""
        return whole("num_embeddings", self.config.num_embeddings, MAX_CODES)

    @property
    def can_decode(self) -> bool:
        """Whether codes can be turned into images."""
        return True

    @cached_property
    def revision(self) -> str:
        """Changes with the weights."""
        return f"{self.config.model_type}/{self.weights.digest}"

    def encode(self, pixel_values: Any) -> Any:
        """The codes `(rows, columns)` of a float tensor `(1, 3, height, width)`, normalised as the family does."""
        import torch

        with torch.inference_mode():
            return self._encode(self._module(), pixel_values.float()).reshape(pixel_values.shape[-2] // self.factor, -1)

    def decode(self, codes: Any) -> Any:
        """The image of codes `(rows, columns)`: a float tensor `(3, height, width)`, roughly in [-1, 1]."""
        import torch

        with torch.inference_mode():
            return self._decode(self._module(), codes).squeeze(0)

    def _load(self) -> Any:
        cls = self._model_class()
        if self.weights.part:
            return load_part(partial(cls, self.config), self.weights)
        return load_folder(cls, self.weights)

    @abstractmethod
    def _model_class(self) -> Any:
        """The class in transformers that has the weights."""

    def _encode(self, module: Any, pixel_values: Any) -> Any:
        return module.encode(pixel_values, return_dict=True).image_tokens

    @abstractmethod
    def _decode(self, module: Any, codes: Any) -> Any:
        """The image `(1, 3, height, width)` of codes `(rows, columns)`."""


class JanusVq(Vq):
    """The VQ model with which Janus writes images; it reads them with a separate vision tower."""

    def _model_class(self) -> Any:
        from transformers.models.janus.modeling_janus import JanusVQVAE

        return JanusVQVAE

    def _decode(self, module: Any, codes: Any) -> Any:
        return module.decode(codes.flatten()[None])


class ChameleonVq(Vq):
    """The VQ model of Chameleon. Transformers has only its encoder; the decoder's weights are in a folder beside it.

    These are the `decoder.*` weights of the VQ-GAN checkpoint that was published with the model, as safetensors.
    """

    def __init__(self, config: Any, weights: Weights) -> None:
        super().__init__(config, weights)
        self._decoder_folder = weights.folder / DECODER_FOLDER
        self._decoder = LazyModule(self._load_decoder)

    @property
    def can_decode(self) -> bool:
        """Whether the folder of the decoder exists."""
        return self._decoder_folder.is_dir()

    def _model_class(self) -> Any:
        from transformers import ChameleonVQVAE

        return ChameleonVQVAE

    def _decode(self, module: Any, codes: Any) -> Any:
        quantised = module.quantize.embedding(codes)[None].permute(0, 3, 1, 2)  # (1, D, rows, columns)
        return self._decoder()(module.post_quant_conv(quantised))

    def _load_decoder(self) -> Any:
        from torch import nn
        from transformers import JanusVQVAEConfig
        from transformers.models.janus.modeling_janus import JanusVQVAEDecoder

        weights = Weights(self._decoder_folder, "decoder")
        names = ("embed_dim", "num_embeddings", "latent_channels", "base_channels", "channel_multiplier")
        shared = {name: getattr(self.config, name) for name in (*names, "num_res_blocks", "dropout")}
        config = JanusVQVAEConfig(**shared, out_channels=self.config.in_channels)

        def make() -> Any:
            decoder = JanusVQVAEDecoder(config)
            for level in decoder.up:
                level.attn = nn.ModuleList()  # the only difference: Janus also has attention at its lowest resolution
            return decoder

        return load_part(make, weights, partial(_to_transformers_name, levels=len(config.channel_multiplier)))


def _to_transformers_name(name: str, levels: int) -> str:
    """The name of a decoder weight in transformers, which numbers the levels from the lowest resolution up."""
    first, *rest = name.split(".")
    return ".".join((first, str(levels - 1 - int(rest[0])), *rest[1:])) if first == "up" else name


class Emu3Vq(Vq):
    """The VQ model of Emu3, for images and videos: `temporal` frames become one grid of codes."""

    @property
    def num_codes(self) -> int:
        """The size of the codebook."""
        return whole("codebook_size", self.config.codebook_size, MAX_CODES)

    @property
    def temporal(self) -> int:
        """The number of frames that one grid of codes stands for."""
        return whole("temporal_downsample_factor", self.config.temporal_downsample_factor, MAX_LEVELS)

    def encode_video(self, pixel_values: Any) -> Any:
        """The codes `(grids, rows, columns)` of `(frames, 3, height, width)`, with `temporal` frames per grid."""
        import torch

        # The model crops its output to the given sizes, to undo padding of batches. Huge sizes crop nothing.
        whole = torch.tensor([[1 << 30, 1 << 30]])
        with torch.inference_mode():
            return self._module().encode(pixel_values[None].float(), whole, return_dict=True).image_tokens[0]

    def decode_video(self, codes: Any) -> Any:
        """The frames of codes `(grids, rows, columns)`: a float tensor `(frames, 3, height, width)`."""
        return self.decode(codes[None])

    def _model_class(self) -> Any:
        from transformers import Emu3VQVAE

        return Emu3VQVAE

    def _encode(self, module: Any, pixel_values: Any) -> Any:
        import torch

        return module.encode(pixel_values, torch.tensor([pixel_values.shape[-2:]]), return_dict=True).image_tokens[0]

    def _decode(self, module: Any, codes: Any) -> Any:
        return module.decode(codes if codes.ndim == 4 else codes[None])


def to_pixels(image: Any) -> Pixels:
    """RGB pixels `(height, width, 3)` of a float tensor `(3, height, width)` in [-1, 1]."""
    pixels: Pixels = ((image.float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).contiguous().numpy()
    return pixels


def square(pixels: Pixels, side: int) -> Any:
    """Pixels `(height, width, 3)` scaled to a float tensor `(3, side, side)` in [-1, 1]."""
    import torch

    image = Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.asarray(image, dtype=np.float32) / 127.5 - 1).permute(2, 0, 1)
