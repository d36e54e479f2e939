"""Media as arrays under a policy: what processors, codecs and engines are given.

Memory is bounded by the policy and by `omnialign.media.MAX_DECODED_BYTES`, whatever the length of a file: videos and
sounds are decoded as streams, of which only what is kept stays. Equal bytes and policies give equal arrays.
"""

from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from omnialign.media import MediaError
from omnialign.modeling import pictures, streams
from omnialign.modeling.inputs import MediaLoss
from omnialign.modeling.messages import MediaBytes
from omnialign.modeling.policy import MediaPolicy
from omnialign.v1 import content_pb2


@dataclass(frozen=True, eq=False)
class Decoded:
    """A decoded medium.

    `array` is uint8 pixels `(height, width, 3)` of an image, float32 mono samples `(samples,)` in [-1, 1] of a sound,
    uint8 frames `(frames, height, width, 3)` of a video. `rate` is in hertz for a sound and in kept frames per second
    for a video; 0 for an image. `times_seconds` are when the kept frames are shown, from the first frame on.
    """

    modality: int
    array: NDArray[Any]
    rate: float = 0.0
    times_seconds: tuple[float, ...] = ()
    loss: MediaLoss | None = None


def decode(medium: MediaBytes, policy: MediaPolicy) -> Decoded:
    """Decodes a medium.

    Raises `omnialign.media.MediaError`: MEDIA_UNDECODABLE, MEDIA_TOO_LARGE, or MEDIA_DAMAGED for a file of which a part
    decodes, unless the policy uses it.
    """
    if medium.modality == content_pb2.MODALITY_IMAGE:
        return _image(medium, policy)
    if medium.modality == content_pb2.MODALITY_AUDIO:
        return _sound(medium, policy)
    return _video(medium, policy)


def _image(medium: MediaBytes, policy: MediaPolicy) -> Decoded:
    pixels, lost = pictures.read_picture(medium.data, policy)
    return Decoded(medium.modality, pixels, loss=_loss(medium, policy, lost=lost))


def _sound(medium: MediaBytes, policy: MediaPolicy) -> Decoded:
    sound = streams.read_sound(medium.data, policy)
    loss = _loss(medium, policy, lost=sound.lost, cut=sound.cut)
    return Decoded(medium.modality, sound.array, float(sound.rate_hz), loss=loss)


def _video(medium: MediaBytes, policy: MediaPolicy) -> Decoded:
    frames = streams.read_frames(medium.data, policy)
    loss = _loss(medium, policy, lost=frames.lost)
    return Decoded(medium.modality, frames.array, frames.rate, frames.times_seconds, loss)


def _loss(medium: MediaBytes, policy: MediaPolicy, *, lost: str, cut: str = "") -> MediaLoss | None:
    """What is to be recorded. Raises MediaError MEDIA_DAMAGED."""
    if lost and not policy.use_damaged:
        message = f"The media object is damaged: {lost}; replace it, or set use_damaged in the media policy."
        raise MediaError(message, reason="MEDIA_DAMAGED", metadata={"sha256": medium.sha256, "found": lost})
    if lost:
        return MediaLoss(medium.sha256, "MEDIA_DAMAGED", "; ".join(filter(None, (lost, cut))))
    return MediaLoss(medium.sha256, "MEDIA_CUT", cut) if cut else None
