"""Audio as residual codes: EnCodec, DAC and Mimi.

A frame of some milliseconds has one code from each codebook. Codes are ordered frame by frame, and within a frame from
the coarsest codebook to the finest; codebook k has the codes [k * book_size, (k + 1) * book_size):

    frame 0: book 0, book 1, ..., book K-1 | frame 1: book 0, ...

A sound has between `min_frames` and `max_frames` frames. A shorter one is padded with silence; a longer one is refused,
because nobody asked for it to be cut.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from omnialign.errors import InvalidArgument
from omnialign.media import MediaError, Samples, read_audio, write_audio
from omnialign.modeling.codecs.limits import MAX_CODES, MAX_RATE, MAX_SAMPLES, MAX_TOKENS, product, whole
from omnialign.modeling.codecs.weights import LazyModule, Weights, load_folder
from omnialign.modeling.decoding import resampled
from omnialign.v1 import content_pb2

MAX_CODEBOOKS = 1024


class ResidualAudioCodec(ABC):
    """What the three share. `codebooks` is the number of codebooks to use; 0 means all that the model has."""

    modality = content_pb2.MODALITY_AUDIO
    model_type = ""

    def __init__(self, *, folder: Path, max_frames: int, min_frames: int = 1, codebooks: int = 0) -> None:
        self.weights = Weights(folder)
        self.config: Any = read_config(folder, self.model_type)
        self._check_config()
        most = whole("the number of codebooks", self.max_codebooks, MAX_CODEBOOKS)
        self.codebooks = whole("codebooks", codebooks, most, least=0) or most
        whole("max_frames", max_frames, MAX_TOKENS // self.codebooks)
        whole("min_frames", min_frames, max_frames)
        self.book_size = whole("codebook_size", self.config.codebook_size, MAX_CODES)
        self.num_codes = product("codes", (self.codebooks, self.book_size), MAX_CODES)
        self.unit = tuple(range(k * self.book_size, (k + 1) * self.book_size) for k in range(self.codebooks))
        self.min_units, self.max_units = min_frames, max_frames
        self.rate_hz = whole("sampling_rate", self.config.sampling_rate, MAX_RATE)
        product("samples", (max_frames, whole("samples of a frame", self.frame_samples, MAX_SAMPLES)), MAX_SAMPLES)
        self._module = LazyModule(lambda: load_folder(self._model_class(), self.weights))

    @property
    def frame_samples(self) -> int:
        """Samples per frame."""
        return int(self.config.hop_length)

    @property
    @abstractmethod
    def max_codebooks(self) -> int:
        """The number of codebooks of the model."""

    @cached_property
    def revision(self) -> str:
        """Changes with the weights and the options."""
        return f"{self.model_type}/{self.weights.digest}/{self.codebooks}/{self.min_units}"

    def encode(self, data: bytes) -> list[int]:
        """The codes of an audio file."""
        return self.encode_array(*read_audio(data))

    def encode_array(self, array: Samples, rate: float) -> list[int]:
        """The codes of mono samples `(samples,)` at `rate` hertz. Raises MediaError AUDIO_TOO_LONG."""
        import torch

        frames = self._padded(resampled(array, round(rate), self.rate_hz))
        with torch.inference_mode():
            codes = self._encode(self._module(), torch.from_numpy(frames)[None, None])[: self.codebooks]  # (K, frames)
        # (frames, K), each codebook shifted to its own range, then flattened frame by frame.
        flat: list[int] = (codes.T + torch.arange(self.codebooks) * self.book_size).flatten().tolist()
        return flat

    def decode(self, codes: Sequence[int]) -> bytes:
        """The WAV that codes stand for, of `frame_samples` samples per frame."""
        import torch

        grid = torch.tensor(codes).reshape(-1, self.codebooks) - torch.arange(self.codebooks) * self.book_size
        with torch.inference_mode():
            # grid is (frames, K); models take (1, K, frames).
            samples = self._decode(self._module(), grid.T.contiguous()[None]).flatten().float().numpy()
        wanted = len(grid) * self.frame_samples
        return write_audio(np.pad(samples[:wanted], (0, max(0, wanted - len(samples)))), self.rate_hz)

    def _padded(self, samples: Samples) -> Samples:
        """The samples, padded with silence to whole frames."""
        frames = max(self.min_units, -(-len(samples) // self.frame_samples))
        if frames > self.max_units:
            seconds = len(samples) / self.rate_hz
            max_seconds = self.max_units * self.frame_samples / self.rate_hz
            raise MediaError(
                f"The audio is {seconds:.1f} seconds long and this model's codec takes at most {max_seconds:.1f}; set "
                "max_audio_seconds in the media policy to cut it.",
                reason="AUDIO_TOO_LONG",
            )
        return np.pad(samples, (0, frames * self.frame_samples - len(samples))).astype(np.float32)

    def _check_config(self) -> None:  # noqa: B027  optional
        """Raises ValueError for a configuration that the codec cannot use."""

    @abstractmethod
    def _model_class(self) -> Any:
        """The class in transformers."""

    @abstractmethod
    def _encode(self, module: Any, samples: Any) -> Any:
        """The codes `(books, frames)` of samples `(1, 1, samples)`."""

    @abstractmethod
    def _decode(self, module: Any, codes: Any) -> Any:
        """The samples of codes `(1, books, frames)`."""


class EncodecCodec(ResidualAudioCodec):
    """EnCodec for mono audio without loudness scales, that is, the 24 kHz model."""

    model_type = "encodec"

    @property
    def max_codebooks(self) -> int:
        """The number of codebooks at the highest bandwidth."""
        return int(self.config.num_quantizers)

    def _check_config(self) -> None:
        if self.config.normalize or self.config.chunk_length_s or self.config.audio_channels != 1:
            raise ValueError("this EnCodec model needs loudness scales or two channels, which codes cannot express")

    def _model_class(self) -> Any:
        from transformers import EncodecModel

        return EncodecModel

    def _encode(self, module: Any, samples: Any) -> Any:
        bands = sorted(self.config.target_bandwidths)
        books = module.quantizer.get_num_quantizers_for_bandwidth
        # Codebooks are residual: the first K are the same at every bandwidth that has at least K.
        band = next((band for band in bands if books(band) >= self.codebooks), bands[-1])
        return module.encode(samples, bandwidth=band).audio_codes[0, 0]

    def _decode(self, module: Any, codes: Any) -> Any:
        return module.decode(codes[None], [None]).audio_values


class DacCodec(ResidualAudioCodec):
    """DAC, the Descript Audio Codec."""

    model_type = "dac"

    @property
    def max_codebooks(self) -> int:
        """The number of codebooks of the model."""
        return int(self.config.n_codebooks)

    def _model_class(self) -> Any:
        from transformers import DacModel

        return DacModel

    def _encode(self, module: Any, samples: Any) -> Any:
        return module.encode(samples, n_quantizers=self.codebooks).audio_codes[0]

    def _decode(self, module: Any, codes: Any) -> Any:
        return module.decode(audio_codes=codes).audio_values


class MimiCodec(ResidualAudioCodec):
    """Mimi: 12.5 frames per second; the first codebooks are semantic."""

    model_type = "mimi"

    @property
    def frame_samples(self) -> int:
        """Samples per frame."""
        return int(self.config.frame_size)

    @property
    def max_codebooks(self) -> int:
        """The number of codebooks of the model."""
        return int(self.config.num_quantizers)

    def _model_class(self) -> Any:
        from transformers import MimiModel

        return MimiModel

    def _encode(self, module: Any, samples: Any) -> Any:
        books = max(self.codebooks, int(self.config.num_semantic_quantizers))
        return module.encode(samples, num_quantizers=books).audio_codes[0]

    def _decode(self, module: Any, codes: Any) -> Any:
        return module.decode(codes).audio_values


def read_config(folder: Path, model_type: str) -> Any:
    """A codec's configuration. Raises InvalidArgument CODEC_WEIGHTS_INVALID if there is none of this model type."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise _no_config(folder, model_type, "none that can be read") from error
    if config.model_type != model_type:
        raise _no_config(folder, model_type, config.model_type)
    return config


def _no_config(folder: Path, wanted: str, found: str) -> InvalidArgument:
    return InvalidArgument(
        f"The codec folder {folder.name} needs the config.json of a model of type {wanted}, but has {found}.",
        reason="CODEC_WEIGHTS_INVALID",
        metadata={"folder": folder.name, "wanted": wanted, "found": found},
    )
