"""What goes into a model: a conversation with its media, the policy for decoding them, and the ids they become.

Control messages refer to media by digest (`omnialign.v1.Content`); here the bytes are at hand. Engines and trainers get
their `ModelInputs` from the same adapter, so both see exactly the same ids and features.
"""

import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, astuple, dataclass, field, fields
from functools import cached_property
from typing import Any

from numpy.typing import NDArray

from omnialign.content import ROLES, Role
from omnialign.errors import NotFound
from omnialign.v1 import content_pb2, generation_pb2

DECODER_REVISION = 3
"""To be raised whenever decoding gives other arrays than before for the same bytes and policy."""


@dataclass(frozen=True)
class MediaLoss:
    """What was left out of a medium: an UPPER_SNAKE `reason`, and the figures in `detail`."""

    sha256: str
    reason: str
    detail: str


@dataclass(frozen=True)
class MediaFeatures:
    """One medium as a processor model sees it: arrays by the model's argument names; the first axis is the medium."""

    modality: int
    arrays: Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class ModelInputs:
    """A prompt as its model sees it: ids with every placeholder expanded, and the features of its media in order."""

    ids: list[int]
    features: tuple[MediaFeatures, ...] = ()
    losses: tuple[MediaLoss, ...] = field(default=(), compare=False)


@dataclass(frozen=True)
class MediaBytes:
    """One media file. `modality` is a value of `omnialign.v1.Modality`."""

    modality: int
    data: bytes

    @cached_property
    def sha256(self) -> str:
        """The hexadecimal digest under which the file is stored."""
        return hashlib.sha256(self.data).hexdigest()


Piece = str | MediaBytes
Pieces = tuple[Piece, ...]


@dataclass(frozen=True)
class Turn:
    """One message of a conversation."""

    role: Role
    pieces: Pieces


def turns(history: Iterable[content_pb2.EarlierMessage], media: Mapping[str, bytes]) -> tuple[Turn, ...]:
    """The messages that came before a prompt, with the bytes of their media. Raises NotFound MEDIA_NOT_FOUND."""
    return tuple(Turn(ROLES[message.role], pieces(message.content, media)) for message in history)


def pieces(content: content_pb2.Content, media: Mapping[str, bytes]) -> Pieces:
    """The parts of a message, with the bytes of its media from `media` (by sha256). Raises NotFound MEDIA_NOT_FOUND."""
    return tuple(_piece(part, media) for part in content.parts)


def _piece(part: content_pb2.Part, media: Mapping[str, bytes]) -> Piece:
    if part.WhichOneof("part") == "text":
        return part.text
    digest = part.media.sha256
    if digest not in media:
        message = f"The media object {digest} is not stored; upload it with UploadMedia."
        raise NotFound(message, reason="MEDIA_NOT_FOUND", metadata={"sha256": digest})
    return MediaBytes(part.media.modality, media[digest])


@dataclass(frozen=True)
class MediaPolicy:
    """How a job decodes media before any model sees them. Equal policies give equal arrays for the same bytes.

    Zero means that the job sets no limit; the model's processor or codec then decides.
    """

    frames_per_second: float = 0.0
    """Rate at which video frames are sampled."""
    max_frames: int = 0
    """Most frames kept of a video, spread over its whole length."""
    max_pixels: int = 0
    """Most pixels of an image or a frame; larger ones are scaled down, keeping their aspect ratio."""
    sample_rate_hz: int = 0
    """Rate to which audio is resampled, before the model's own resampling."""
    first_channel_only: bool = False
    """Take the first audio channel instead of the mean of all channels."""
    max_audio_seconds: float = 0.0
    """Length to which audio is cut; the cut is recorded as a loss."""
    use_damaged: bool = False
    """Use the part of a damaged file that decodes, and record the loss; otherwise the file is refused."""

    @classmethod
    def of(cls, message: generation_pb2.MediaPolicy) -> "MediaPolicy":
        """The policy in a protobuf message; `NO_BOUNDS` for an empty message."""
        return cls(**{field.name: getattr(message, field.name) for field in fields(cls)})

    def message(self) -> generation_pb2.MediaPolicy:
        """The policy as a protobuf message; the inverse of `of`."""
        return generation_pb2.MediaPolicy(**asdict(self))

    def scaled(self, width: int, height: int) -> tuple[int, int]:
        """Width and height within `max_pixels`, in the same aspect ratio as long as no side falls below one pixel."""
        if not self.max_pixels or width * height <= self.max_pixels:
            return width, height
        scale = math.sqrt(self.max_pixels / (width * height))
        smaller = max(1, int(min(width, height) * scale))
        larger = max(1, min(int(max(width, height) * scale), self.max_pixels // smaller))
        return (larger, smaller) if width >= height else (smaller, larger)

    @property
    def identity(self) -> str:
        """Twelve hexadecimal digits that identify the policy, and how it is carried out, in a cache key."""
        return hashlib.sha256(repr((DECODER_REVISION, *astuple(self))).encode()).hexdigest()[:12]


NO_BOUNDS = MediaPolicy()
