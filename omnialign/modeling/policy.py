"""The media policy: how a job reads pictures, sounds and videos before any model sees them.

A zero means no bound of the job's own: the model's processor or codec then decides.
"""

import hashlib
from dataclasses import astuple, dataclass


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

    @property
    def identity(self) -> str:
        """Twelve hexadecimal digits: the policy's part of a cache key."""
        return hashlib.sha256(repr(astuple(self)).encode()).hexdigest()[:12]


NO_BOUNDS = MediaPolicy()
