"""Media files as arrays, decoded under a policy: what processors, codecs and engines work on.

The policy and `omnialign.media.MAX_DECODED_BYTES` bound the memory, however long a file is: video and audio are decoded
as streams (`omnialign.modeling.streams`), and only what is kept stays in memory. Equal bytes and equal policies give
equal arrays.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

from omnialign.media import MediaError, Pixels, Samples, pictures
from omnialign.media.endings import lacks
from omnialign.media.videos import evenly_spaced
from omnialign.modeling import streams
from omnialign.modeling.inputs import MediaBytes, MediaLoss, MediaPolicy
from omnialign.v1 import content_pb2


@dataclass(frozen=True, eq=False)
class DecodedMedia:
    """A decoded medium. The shape and meaning of `array` and `rate` depend on the modality:

        image   uint8 pixels (height, width, 3); rate 0
        audio   float32 mono samples (samples,) in [-1, 1]; rate in hertz
        video   uint8 frames (frames, height, width, 3); rate in kept frames per second

    `times_seconds` says when each kept frame is shown, counted from the first one.
    """

    modality: int
    array: NDArray[Any]
    rate: float = 0.0
    times_seconds: tuple[float, ...] = ()
    loss: MediaLoss | None = None

    @property
    def even(self) -> NDArray[Any]:
        """The array for whoever counts frames instead of reading their times: frames at even times, as many."""
        return self.array[evenly_spaced(self.times_seconds)] if self.times_seconds else self.array


@dataclass(frozen=True)
class Picture:
    """Upright sRGB pixels `(height, width, 3)`; `lost` says what does not decode, `cut` what is left out, or ""."""

    pixels: Pixels
    lost: str
    cut: str


Decoder = Callable[[MediaBytes, MediaPolicy], DecodedMedia]


def decode(medium: MediaBytes, policy: MediaPolicy) -> DecodedMedia:
    """Decodes a media file: in this process, or where `use_decoder` says.

    Raises what `decode_here` raises.
    """
    return (_decoder or decode_here)(medium, policy)


_decoder: Decoder | None = None


def use_decoder(decoder: Decoder | None) -> None:
    """Makes `decode` call `decoder` in the whole process; services decode in child processes this way."""
    global _decoder
    _decoder = decoder


def decode_here(medium: MediaBytes, policy: MediaPolicy) -> DecodedMedia:
    """Decodes a media file in this process.

    Raises `omnialign.media.MediaError`: MEDIA_UNDECODABLE, MEDIA_TOO_LARGE, or MEDIA_DAMAGED for a file that decodes in
    part, unless the policy sets `use_damaged`.
    """
    if medium.modality == content_pb2.MODALITY_IMAGE:
        return _image(medium, policy)
    if medium.modality == content_pb2.MODALITY_AUDIO:
        return _sound(medium, policy)
    return _video(medium, policy)


def _image(medium: MediaBytes, policy: MediaPolicy) -> DecodedMedia:
    picture = decode_image(medium.data, policy)
    loss = _loss(medium, policy, lost=picture.lost, cut=picture.cut)
    return DecodedMedia(medium.modality, picture.pixels, loss=loss)


def _sound(medium: MediaBytes, policy: MediaPolicy) -> DecodedMedia:
    sound = streams.read_sound(medium.data, policy)
    loss = _loss(medium, policy, lost=sound.lost, cut=sound.cut)
    return DecodedMedia(medium.modality, sound.array, float(sound.rate_hz), loss=loss)


def _video(medium: MediaBytes, policy: MediaPolicy) -> DecodedMedia:
    frames = streams.read_frames(medium.data, policy)
    loss = _loss(medium, policy, lost=frames.lost)
    return DecodedMedia(medium.modality, frames.array, frames.rate, frames.times_seconds, loss)


def _loss(medium: MediaBytes, policy: MediaPolicy, *, lost: str, cut: str = "") -> MediaLoss | None:
    """The loss to record, if any. Raises MediaError MEDIA_DAMAGED."""
    if lost and not policy.use_damaged:
        message = f"The media object is damaged: {lost}; replace it, or set use_damaged in the media policy."
        raise MediaError(message, reason="MEDIA_DAMAGED", metadata={"sha256": medium.sha256, "found": lost})
    if lost:
        return MediaLoss(medium.sha256, "MEDIA_DAMAGED", "; ".join(filter(None, (lost, cut))))
    return MediaLoss(medium.sha256, "MEDIA_CUT", cut) if cut else None


def decode_image(data: bytes, policy: MediaPolicy) -> Picture:
    """A picture on white, within `policy.max_pixels`: the first frame or page of several.

    Raises MediaError when nothing decodes, or when the image is too large.
    """
    with pictures.opened(data) as image:
        frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)  # an MPO holds previews and depths
        if policy.max_pixels:  # a JPEG decodes faster at 1/2, 1/4 or 1/8 of its size
            image.draft("RGB", policy.scaled(*image.size))
        lost = _load(image) or lacks(data)
        return Picture(_pixels(image, policy), lost, f"1 of {frames} frames is kept" if frames > 1 else "")


def _load(image: Image.Image) -> str:
    """Decodes the pixels, of a damaged file as many as possible. Raises OSError or SyntaxError when there are none."""
    try:
        image.load()
    except (OSError, SyntaxError, ValueError) as error:
        if not isinstance(image, ImageFile.ImageFile) or getattr(image, "_im", None) is None:
            raise
        image.tile = []  # treat what is decoded so far as the whole image
        if image.getbbox() is None:  # not a single pixel was decoded
            raise
        return f"the pixels break off ({error})"
    return ""


def _pixels(image: Image.Image, policy: MediaPolicy) -> Pixels:
    upright = pictures.rgb(image)
    size = policy.scaled(*upright.size)
    return np.asarray(upright if size == upright.size else upright.resize(size, Image.Resampling.BICUBIC))


def resampled(samples: Samples, rate_hz: int, wanted_hz: int) -> Samples:
    """Mono samples `(samples,)` at `wanted_hz`; their number is `len(samples) * wanted_hz / rate_hz`, rounded up."""
    if rate_hz == wanted_hz or not len(samples):
        return samples
    resampler = av.AudioResampler(format="flt", layout="mono", rate=wanted_hz)
    whole = np.ascontiguousarray(samples, dtype=np.float32)[None]
    frame = av.AudioFrame.from_ndarray(whole, format="flt", layout="mono")
    frame.sample_rate = rate_hz
    parts = [out.to_ndarray().reshape(-1) for out in (*resampler.resample(frame), *resampler.resample(None))]
    output = np.concatenate(parts) if parts else np.zeros(0, np.float32)
    # The resampler's filter makes the output a little short or long; codecs and tests need an exact length.
    wanted = -(-len(samples) * wanted_hz // rate_hz)
    return np.pad(output[:wanted], (0, max(0, wanted - len(output)))).astype(np.float32)
