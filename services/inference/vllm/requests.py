"""Prompts as vLLM takes them: ids, and for processor models the decoded media with names to cache them by.

Sampling settings and results between our requests and vLLM's."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from omnialign.content import NAMES
from omnialign.errors import FailedPrecondition, Internal, InvalidArgument, OmnialignError
from omnialign.modeling.adapters import Adapter
from omnialign.modeling.adapters.features import video_metadata
from omnialign.modeling.decoding import DecodedMedia
from omnialign.modeling.inputs import MediaBytes, MediaLoss, MediaPolicy, Turn
from omnialign.v1 import content_pb2, generation_pb2
from services.inference import stop_strings
from services.inference.engine import EngineRequest
from services.inference.errors import engine_closed


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


def _item(decoded: DecodedMedia) -> Any:
    """A medium in the form that vLLM knows for its modality."""
    if decoded.modality == content_pb2.MODALITY_AUDIO:
        return decoded.array, decoded.rate
    if decoded.modality == content_pb2.MODALITY_VIDEO:
        sampled = {"do_sample_frames": False, "video_backend": "omnialign"}  # the frames are those that the policy kept
        return decoded.array, video_metadata(decoded) | sampled
    return Image.fromarray(decoded.array)  # an array's axes would be guessed


class MediaMissed(Exception):
    """vLLM's processes disagree on which media both have; it has noted that, and a second rendering sends them again.

    That happens where a prompt was rendered and then not run, because it was too long or cancelled.
    """


def sampling_of(request: EngineRequest, adapter: Adapter, max_new_tokens: int) -> Any:
    """vLLM's settings for a request. Raises FailedPrecondition JSON_SCHEMA_UNSUPPORTED."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    sampling = request.sampling
    ends = stop_texts(request)
    return SamplingParams(
        max_tokens=max_new_tokens,
        temperature=sampling.temperature,
        top_p=sampling.top_p or 1.0,
        seed=request.seed if sampling.temperature > 0 else None,
        stop_token_ids=list(adapter.end_ids),
        ignore_eos=True,  # the adapter's end ids are the only ones, as on every engine
        detokenize=False,
        structured_outputs=_structure(request, adapter),
        # Stop texts are looked for in what the adapter reads, so then every token is looked at.
        output_kind=RequestOutputKind.CUMULATIVE if ends else RequestOutputKind.FINAL_ONLY,
    )


def stop_texts(request: EngineRequest) -> list[str]:
    """The texts that end the answer of a request."""
    return [stop for stop in request.sampling.stop if stop]


@dataclass
class Answer:
    """What vLLM has written for a request so far."""

    adapter: Adapter
    stops: Sequence[str]
    ids: list[int]
    finish_reason: int = generation_pb2.FINISH_REASON_UNSPECIFIED

    def take(self, output: Any) -> bool:
        """Goes on with vLLM's ids from the first on; True when the answer has ended. Raises how vLLM broke it off."""
        (completion,) = output.outputs
        ids = list(completion.token_ids)
        for count in range(len(self.ids) + 1, len(ids) + 1) if self.stops else ():
            if stop_strings.stop_met(self.adapter, ids[:count], self.stops):
                self.ids, self.finish_reason = ids[:count], generation_pb2.FINISH_REASON_STOP
                return True
        self.ids = ids
        if output.finished:
            self.finish_reason = _finish_reason(completion)
        return bool(output.finished)


def _finish_reason(completion: Any) -> int:
    if completion.finish_reason == "stop":
        return generation_pb2.FINISH_REASON_END
    if completion.finish_reason == "length":
        return generation_pb2.FINISH_REASON_LENGTH
    if completion.finish_reason == "error":
        raise MediaMissed
    raise engine_closed()  # aborted, and not by us


def _structure(request: EngineRequest, adapter: Adapter) -> Any:
    if not request.json_schema:
        return None
    if not takes_media(adapter):
        raise FailedPrecondition(
            f"The model {request.model} reads and writes by a tokenizer that vLLM does not have, so its answers cannot "
            "be held to a JSON schema.",
            reason="JSON_SCHEMA_UNSUPPORTED",
            metadata={"model": request.model},
        )
    from vllm.sampling_params import StructuredOutputsParams

    return StructuredOutputsParams(json=request.json_schema)


def refused(error: Exception) -> OmnialignError:
    """The error of a request that vLLM does not take."""
    return InvalidArgument(f"vLLM refuses the request: {' '.join(str(error).split())}", reason="REQUEST_REFUSED")


def prompt_too_long(request: EngineRequest, prompt_tokens: int, context_tokens: int) -> InvalidArgument:
    """The error of a prompt that leaves no room for an answer."""
    return InvalidArgument(
        f"The prompt has {prompt_tokens} tokens; {request.model} reads and writes {context_tokens} together.",
        reason="PROMPT_TOO_LONG",
        metadata={"prompt_tokens": str(prompt_tokens), "context_tokens": str(context_tokens)},
    )
