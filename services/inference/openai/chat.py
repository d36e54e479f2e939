"""Chat completions: text and media in, text out, by the endpoint's own chat template.

Images and videos travel as `data:` URLs (`image_url`, and `video_url` as vLLM takes it), audio as `input_audio`. Media
go out byte for byte if the policy sets no bounds; otherwise they are decoded by the policy and encoded again.
"""

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from omnialign import media
from omnialign.content import NAMES
from omnialign.errors import InvalidArgument
from omnialign.modeling.decoding import DecodedMedia, decode
from omnialign.modeling.inputs import NO_BOUNDS, MediaBytes, MediaLoss, MediaPolicy, Turn
from omnialign.v1 import content_pb2
from services.inference.codec_pool import CodecPool
from services.inference.engine import EngineRequest
from services.inference.model_uri import EndpointModel
from services.inference.openai.api import (
    Body,
    Reply,
    choice_of,
    cut_at_stop,
    finish_reason_of,
    sampling_options,
    usage_of,
)
from services.inference.openai.errors import ErrorContext
from services.inference.stop_strings import stops_of

IMAGE, AUDIO, VIDEO = content_pb2.MODALITY_IMAGE, content_pb2.MODALITY_AUDIO, content_pb2.MODALITY_VIDEO
IMAGE_SIGNATURES = (
    (b"\x89PNG", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF8", "image/gif"),
    (b"RIFF", "image/webp"),
)
AUDIO_SIGNATURES = ((b"RIFF", "wav"), (b"fLaC", "flac"), (b"OggS", "ogg"), (b"ID3", "mp3"), (b"\xff\xfb", "mp3"))
VIDEO_SIGNATURES = ((b"\x1aE\xdf\xa3", "video/webm"), (b"RIFF", "video/x-msvideo"))
DEFAULT_FRAMES_PER_SECOND = 1.0


class ChatCompletions:
    """Asks the chat API of an endpoint."""

    path = "/chat/completions"

    def __init__(self, model: EndpointModel, codecs: CodecPool) -> None:
        self._model, self._codecs = model, codecs

    async def body(self, request: EngineRequest, *, bounded: bool) -> Body:
        """The conversation as messages. Media are decoded and encoded off the event loop."""
        if any(isinstance(piece, MediaBytes) for turn in request.turns for piece in turn.pieces):
            return await self._codecs.run(lambda: self._body(request, bounded))
        return self._body(request, bounded)

    async def reply(self, request: EngineRequest, answer: Mapping[str, Any], context: ErrorContext) -> Reply:
        """The text of the answer."""
        choice = choice_of(answer, context)
        message = choice.get("message")
        if not isinstance(message, Mapping) or not isinstance(message.get("content") or "", str):
            raise context.invalid("has no message with text", str(answer))
        # JSON can escape half of a surrogate pair, which no text that is stored or sent on may contain.
        text = (message.get("content") or "").strip().encode("utf-8", "replace").decode()
        is_refusal = choice.get("finish_reason") == "content_filter" or (not text and message.get("refusal"))
        pieces, finish_reason = cut_at_stop(
            (text,) if text else (), finish_reason_of(choice), stops_of(request.sampling)
        )
        return Reply(
            _refusal(context.model) if is_refusal else pieces,
            finish_reason,
            usage_of(answer, "prompt_tokens"),
            usage_of(answer, "completion_tokens"),
        )

    def _body(self, request: EngineRequest, bounded: bool) -> Body:
        losses: list[MediaLoss] = []
        messages = [_message(turn, request.policy, losses) for turn in request.turns]
        options = sampling_options(request)
        if bounded and request.sampling.max_new_tokens:
            options["max_tokens"] = request.sampling.max_new_tokens
        if request.json_schema:
            schema = {"name": "answer", "schema": json.loads(request.json_schema), "strict": True}
            options["response_format"] = {"type": "json_schema", "json_schema": schema}
        text = json.dumps({"model": self._model.name, "messages": messages, **options})
        return Body(text.encode(), tuple(losses))


@dataclass(frozen=True)
class Part:
    """A part of a message, and what was left out of its medium."""

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
        return Part(_to_json(medium.modality, medium.data))
    decoded = decode(medium, policy)
    return Part(_to_json(medium.modality, _encode(decoded)), decoded.loss)


def _message(turn: Turn, policy: MediaPolicy, losses: list[MediaLoss]) -> dict[str, Any]:
    """A turn as a message; plain text stays a string, which every endpoint takes."""
    if all(isinstance(piece, str) for piece in turn.pieces):
        return {"role": turn.role, "content": "".join(piece for piece in turn.pieces if isinstance(piece, str))}
    parts = []
    for piece in turn.pieces:
        if isinstance(piece, str):
            parts.append({"type": "text", "text": piece})
            continue
        part = media_part(piece, policy)
        parts.append(part.json)
        if part.loss is not None:
            losses.append(part.loss)
    return {"role": turn.role, "content": parts}


def _to_json(modality: int, data: bytes) -> dict[str, Any]:
    text = base64.b64encode(data).decode("ascii")
    if modality == AUDIO:
        return {"type": "input_audio", "input_audio": {"data": text, "format": _kind(data, AUDIO_SIGNATURES, "wav")}}
    if modality == VIDEO:
        mime = _kind(data, VIDEO_SIGNATURES, "video/mp4")
        return {"type": "video_url", "video_url": {"url": f"data:{mime};base64,{text}"}}
    mime = _kind(data, IMAGE_SIGNATURES, "image/png")
    return {"type": "image_url", "image_url": {"url": f"data:{mime};base64,{text}"}}


def _kind(data: bytes, signatures: tuple[tuple[bytes, str], ...], default: str) -> str:
    """What a file is, by its first bytes."""
    return next((name for signature, name in signatures if data.startswith(signature)), default)


def _encode(decoded: DecodedMedia) -> bytes:
    if decoded.modality == AUDIO:
        return media.write_audio(decoded.array, round(decoded.rate))
    if decoded.modality == VIDEO:
        # (frames, height, width, 3), with even sides, as the video codec subsamples colours by two
        even = decoded.array[:, : decoded.array.shape[1] // 2 * 2, : decoded.array.shape[2] // 2 * 2]
        return media.write_video(even, decoded.rate or DEFAULT_FRAMES_PER_SECOND)
    return media.write_image(decoded.array)


def _refusal(model: EndpointModel) -> InvalidArgument:
    return InvalidArgument(
        f"The endpoint {model.base_url} refused to answer this prompt.",
        reason="ANSWER_REFUSED",
        metadata={"endpoint": model.base_url, "model": model.name},
    )
