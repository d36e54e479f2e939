"""What goes into a model: a conversation with the bytes of its media, the policy they are read by, the ids they become.

Control messages carry media by digest (`omnialign.v1.Content`); here the bytes are at hand. Engines and trainers get
`ModelInputs` from the same adapter, so that neither can see what the other does not.
"""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import asdict, astuple, dataclass, field, fields
from functools import cached_property
from typing import Any, Literal

from numpy.typing import NDArray

from omnialign.errors import NotFound
from omnialign.v1 import content_pb2, generation_pb2


@dataclass(frozen=True)
class MediaLoss:
    """What of a medium was left out: an UPPER_SNAKE reason and the figures."""

    sha256: str
    reason: str
    detail: str


@dataclass(frozen=True)
class MediaFeatures:
    """One medium as a processor model sees it: arrays by the names of the model's arguments, first axis the medium."""

    modality: int
    arrays: Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class ModelInputs:
    """A prompt as its model sees it: ids with every placeholder expanded, and the features in reading order."""

    ids: list[int]
    features: tuple[MediaFeatures, ...] = ()
    losses: tuple[MediaLoss, ...] = field(default=(), compare=False)


@dataclass(frozen=True)
class MediaBytes:
    """One medium with its bytes. `modality` is a value of `omnialign.v1.Modality`."""

    modality: int
    data: bytes

    @cached_property
    def sha256(self) -> str:
        """The digest that the medium is stored under, in hexadecimal."""
        return hashlib.sha256(self.data).hexdigest()


Piece = str | MediaBytes
Pieces = tuple[Piece, ...]


@dataclass(frozen=True)
class Turn:
    """What one side of a conversation said."""

    role: Literal["user", "assistant"]
    pieces: Pieces


def pieces(content: content_pb2.Content, media: Mapping[str, bytes]) -> Pieces:
    """The parts of a message with bytes looked up by sha256. Raises NotFound MEDIA_NOT_FOUND."""
    return tuple(_piece(part, media) for part in content.parts)


def _piece(part: content_pb2.Part, media: Mapping[str, bytes]) -> Piece:
    if part.WhichOneof("part") == "text":
        return part.text
    digest = part.media.sha256
    if digest not in media:
        raise NotFound(f"Media {digest} is not stored.", reason="MEDIA_NOT_FOUND", metadata={"sha256": digest})
    return MediaBytes(part.media.modality, media[digest])


@dataclass(frozen=True)
class MediaPolicy:
    """Bounds and rules of decoding. Equal policies give equal arrays for the same bytes."""

    frames_per_second: float = 0.0
    """Rate at which the frames of a video are sampled."""
    max_frames: int = 0
    """Most frames of a video, spread over its length."""
    max_pixels: int = 0
    """Most pixels of a picture or a frame; larger ones are scaled down in their proportions."""
    sample_rate_hz: int = 0
    """Rate that sounds are resampled to, before the model's own."""
    first_channel_only: bool = False
    """Take the first channel of a sound instead of the mean of all."""
    max_audio_seconds: float = 0.0
    """Length that sounds are cut to; what was cut is recorded as a loss."""
    use_damaged: bool = False
    """Use what decodes of a damaged file and record the loss; else the file is refused."""

    @classmethod
    def of(cls, message: generation_pb2.MediaPolicy) -> "MediaPolicy":
        """The policy that a message carries; `NO_BOUNDS` for an empty one."""
        return cls(**{field.name: getattr(message, field.name) for field in fields(cls)})

    def message(self) -> generation_pb2.MediaPolicy:
        """The policy as a message; the inverse of `of`."""
        return generation_pb2.MediaPolicy(**asdict(self))

    def scaled(self, width: int, height: int) -> tuple[int, int]:
        """Width and height within `max_pixels`, in the same proportions as far as no side falls below one."""
        if not self.max_pixels or width * height <= self.max_pixels:
            return width, height
        share = math.sqrt(self.max_pixels / (width * height))
        smaller = max(1, int(min(width, height) * share))
        larger = max(1, min(int(max(width, height) * share), self.max_pixels // smaller))
        return (larger, smaller) if width >= height else (smaller, larger)

    @property
    def identity(self) -> str:
        """Twelve hexadecimal digits: the policy's part of a cache key."""
        return hashlib.sha256(repr(astuple(self)).encode()).hexdigest()[:12]


NO_BOUNDS = MediaPolicy()
