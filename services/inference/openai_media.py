"""Media as parts of a chat: the bytes as they are where the policy bounds nothing, else decoded by it and written anew.

Images and videos travel as `data:` URLs (`image_url`, and `video_url` as vLLM takes it), sounds as `input_audio`.
"""

import base64
from dataclasses import dataclass
from typing import Any

from omnialign import media
from omnialign.content import NAMES
from omnialign.errors import InvalidArgument
from omnialign.modeling.decoded import Decoded, decode
from omnialign.modeling.inputs import MediaLoss
from omnialign.modeling.messages import MediaBytes
from omnialign.modeling.policy import NO_BOUNDS, MediaPolicy
from omnialign.v1 import content_pb2

IMAGE, AUDIO, VIDEO = content_pb2.MODALITY_IMAGE, content_pb2.MODALITY_AUDIO, content_pb2.MODALITY_VIDEO
IMAGE_MARKS = (
    (b"\x89PNG", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF8", "image/gif"),
    (b"RIFF", "image/webp"),
)
AUDIO_MARKS = ((b"RIFF", "wav"), (b"fLaC", "flac"), (b"OggS", "ogg"), (b"ID3", "mp3"), (b"\xff\xfb", "mp3"))
VIDEO_MARKS = ((b"\x1aE\xdf\xa3", "video/webm"), (b"RIFF", "video/x-msvideo"))
DEFAULT_FRAMES_PER_SECOND = 1.0


@dataclass(frozen=True)
class Part:
    """A part of a message, and what of its medium was left out."""

    json: dict[str, Any]
    loss: MediaLoss | None = None


def media_part(medium: MediaBytes, policy: MediaPolicy) -> Part:
    """The part for a medium. Raises MediaError, or InvalidArgument MODALITY_UNSUPPORTED for what chats do not take."""
    if medium.modality not in (IMAGE, AUDIO, VIDEO):
        name = NAMES.get(medium.modality, str(medium.modality))
        raise InvalidArgument(
            f"A chat endpoint does not read {name}.", reason="MODALITY_UNSUPPORTED", metadata={"modality": name}
        )
    if policy == NO_BOUNDS:
        return Part(_json(medium.modality, medium.data))
    decoded = decode(medium, policy)
    return Part(_json(medium.modality, _encode(decoded)), decoded.loss)


def _json(modality: int, data: bytes) -> dict[str, Any]:
    text = base64.b64encode(data).decode("ascii")
    if modality == AUDIO:
        return {"type": "input_audio", "input_audio": {"data": text, "format": _mark(data, AUDIO_MARKS, "wav")}}
    if modality == VIDEO:
        mime = _mark(data, VIDEO_MARKS, "video/mp4")
        return {"type": "video_url", "video_url": {"url": f"data:{mime};base64,{text}"}}
    mime = _mark(data, IMAGE_MARKS, "image/png")
    return {"type": "image_url", "image_url": {"url": f"data:{mime};base64,{text}"}}


def _mark(data: bytes, marks: tuple[tuple[bytes, str], ...], default: str) -> str:
    """What the first bytes of a file say that it is."""
    return next((name for mark, name in marks if data.startswith(mark)), default)


def _encode(decoded: Decoded) -> bytes:
    if decoded.modality == AUDIO:
        return media.write_audio(decoded.array, round(decoded.rate))
    if decoded.modality == VIDEO:
        even = decoded.array[:, : decoded.array.shape[1] // 2 * 2, : decoded.array.shape[2] // 2 * 2]
        return media.write_video(even, decoded.rate or DEFAULT_FRAMES_PER_SECOND)
    return media.write_image(decoded.array)
