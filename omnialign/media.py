"""Reading and writing media files: PNG and other images, WAV and other sounds, MP4 and other videos.

Arrays are the common currency: an image is uint8 `(height, width, 3)`, a sound is mono float32 `(samples,)` in
[-1, 1] with its rate in hertz, a video is uint8 `(frames, height, width, 3)` with its frames per second. Limits on size
belong to whoever accepts files from outside (the data service); this module trusts the length of what it is given.
"""

import io
import wave
from collections.abc import Mapping
from fractions import Fraction

import av
import av.error
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from omnialign.errors import InvalidArgument

Pixels = NDArray[np.uint8]
Samples = NDArray[np.float32]

MIME_TYPES = {"image": "image/png", "audio": "audio/wav", "video": "video/mp4"}
PCM_PEAK = 32767
MAX_DECODED_BYTES = 1 << 30
"""Most bytes that one medium may take once decoded under a policy, whatever the policy says."""


class MediaError(InvalidArgument):
    """The bytes do not decode as the media they claim to be."""

    def __init__(
        self, message: str, *, reason: str = "MEDIA_UNDECODABLE", metadata: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message, reason=reason, metadata=metadata)


def too_large(found_bytes: int, mend: str) -> MediaError:
    """The error for a medium that would fill the memory."""
    message = f"Decoded, the medium takes {found_bytes} bytes, and {MAX_DECODED_BYTES} are allowed: {mend}."
    metadata = {"found_bytes": str(found_bytes), "limit_bytes": str(MAX_DECODED_BYTES)}
    return MediaError(message, reason="MEDIA_TOO_LARGE", metadata=metadata)


def read_image(data: bytes) -> Pixels:
    """Decodes an image to RGB, upright. Raises MediaError."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except Image.DecompressionBombError as error:
        raise MediaError(f"The image is too large: {error}", reason="MEDIA_TOO_LARGE") from error
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
        raise MediaError(f"The image does not decode: {error}.") from error


def write_image(pixels: Pixels) -> bytes:
    """Encodes RGB pixels as PNG, without loss."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def read_audio(data: bytes) -> tuple[Samples, int]:
    """Decodes a sound to mono float samples and their rate in hertz. Raises MediaError."""
    if data[:4] == b"RIFF":
        try:
            return _read_pcm(data)
        except (wave.Error, EOFError):
            pass  # a WAV that is not 16-bit PCM: the general decoder may know it
    try:
        with av.open(io.BytesIO(data), mode="r") as container:
            stream = container.streams.audio[0]
            resampler = av.AudioResampler(format="fltp", rate=stream.rate)
            frames = [out for frame in container.decode(stream) for out in resampler.resample(frame)]
            chunks = [frame.to_ndarray().mean(axis=0) for frame in frames + resampler.resample(None)]
            return np.concatenate(chunks).astype(np.float32), int(stream.rate)
    except (av.error.FFmpegError, IndexError, ValueError) as error:
        raise MediaError(f"The sound does not decode: {error}.") from error


def _read_pcm(data: bytes) -> tuple[Samples, int]:
    with wave.open(io.BytesIO(data)) as file:
        if file.getsampwidth() != 2:
            raise wave.Error("not 16-bit")
        raw = np.frombuffer(file.readframes(file.getnframes()), dtype="<i2").reshape(-1, file.getnchannels())
        return (raw.mean(axis=1) / PCM_PEAK).astype(np.float32), file.getframerate()


def write_audio(samples: Samples, rate_hz: int) -> bytes:
    """Encodes mono samples in [-1, 1] as 16-bit WAV."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate_hz)
        file.writeframes((np.clip(samples, -1, 1) * PCM_PEAK).round().astype("<i2").tobytes())
    return buffer.getvalue()


def read_video(data: bytes) -> tuple[Pixels, float]:
    """Decodes a video to RGB frames and their rate per second. Raises MediaError."""
    try:
        with av.open(io.BytesIO(data), mode="r") as container:
            stream = container.streams.video[0]
            stream.thread_type = "NONE"
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
            return np.stack(frames), float(stream.average_rate or 0)
    except (av.error.FFmpegError, IndexError, ValueError) as error:
        raise MediaError(f"The video does not decode: {error}.") from error


def write_video(frames: Pixels, frames_per_second: float) -> bytes:
    """Encodes RGB frames of even height and width as H.264 in MP4 (4:4:4 is avoided: browsers do not play it)."""
    buffer = io.BytesIO()
    with av.open(buffer, mode="w", format="mp4") as container:
        options = {"crf": "12", "preset": "ultrafast", "threads": "1"}
        stream = container.add_stream(
            "libx264", rate=Fraction(frames_per_second).limit_denominator(1000), options=options
        )
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for pixels in frames:
            for packet in stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode(None):
            container.mux(packet)
    return buffer.getvalue()
