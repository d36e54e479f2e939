"""Prompts as vLLM takes them: ids, and for processor models the decoded media with names to cache them by."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from omnialign.content import NAMES
from omnialign.errors import Internal, OmnialignError
from omnialign.modeling.adapters import Adapter
from omnialign.modeling.adapters.features import video_metadata
from omnialign.modeling.decoded import Decoded
from omnialign.modeling.inputs import MediaLoss
from omnialign.modeling.messages import MediaBytes, Turn
from omnialign.modeling.policy import MediaPolicy
from omnialign.v1 import content_pb2
from services.inference.engine import EngineRequest


@dataclass(frozen=True)
class VllmPrompt:
    """A prompt as vLLM's renderer takes it, and what it lacks of its media."""

    fields: dict[str, Any]
    losses: tuple[MediaLoss, ...] = ()


def takes_media(adapter: Adapter) -> bool:
    """Whether a model is fed decoded media beside its ids, as processor models are."""
    return hasattr(adapter, "placeholders")


def prompt_of(adapter: Adapter, request: EngineRequest) -> VllmPrompt:
    """A prompt for vLLM. Raises what the adapter raises for one that cannot be read, or Internal PROMPT_UNREADABLE."""
    try:
        return _prompt_of(adapter, request.turns, request.policy)
    except OmnialignError:
        raise
    except Exception as error:  # a codec met what nobody thought of: this request's trouble alone
        why = f"The prompt cannot be read: {type(error).__name__}: {error}"
        raise Internal(why, reason="PROMPT_UNREADABLE") from error


def _prompt_of(adapter: Adapter, turns: Sequence[Turn], policy: MediaPolicy) -> VllmPrompt:
    if not takes_media(adapter):
        inputs = adapter.encode(turns, policy)
        return VllmPrompt({"prompt_token_ids": inputs.ids}, inputs.losses)
    found = adapter.placeholders(turns, policy)  # type: ignore[attr-defined]
    data: dict[str, list[Any]] = {}
    names: dict[str, list[str]] = {}
    # A model whose ids hold its media already has none beside them.
    for medium, decoded in zip(media_of(turns) if found.media else (), found.media, strict=True):
        kind = NAMES[decoded.modality]
        data.setdefault(kind, []).append(_item(decoded))
        names.setdefault(kind, []).append(f"{medium.sha256}-{policy.identity}")
    media = {"multi_modal_data": data, "multi_modal_uuids": names} if data else {}
    losses = tuple(decoded.loss for decoded in found.media if decoded.loss is not None)
    return VllmPrompt({"prompt_token_ids": list(found.ids), **media}, losses)


def media_of(turns: Sequence[Turn]) -> list[MediaBytes]:
    """The media of a conversation, in reading order."""
    return [piece for turn in turns for piece in turn.pieces if isinstance(piece, MediaBytes)]


def order_of(request: EngineRequest) -> tuple[list[str], list[str]]:
    """What requests are sorted by, so that those with the same media and the same beginning follow each other.

    vLLM serves in order of arrival and drops the least recently used of its caches.
    """
    texts = [piece for turn in request.turns for piece in turn.pieces if isinstance(piece, str)]
    return [medium.sha256 for medium in media_of(request.turns)], texts


def _item(decoded: Decoded) -> Any:
    """A medium in the form that vLLM knows for its modality."""
    if decoded.modality == content_pb2.MODALITY_AUDIO:
        return decoded.array, decoded.rate
    if decoded.modality == content_pb2.MODALITY_VIDEO:
        sampled = {"do_sample_frames": False, "video_backend": "omnialign"}  # the frames are those that the policy kept
        return decoded.array, video_metadata(decoded) | sampled
    return Image.fromarray(decoded.array)  # an array's axes would be guessed
