"""The media policy: how a job reads pictures, sounds and videos before any model sees them.

A zero means no bound of the job's own: the model's processor or codec then decides.
"""

import hashlib
import math
from dataclasses import asdict, astuple, dataclass, fields

from omnialign.v1 import generation_pb2


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
