"""Requests as vLLM takes them, and answers as it gives them: prompts, sampling parameters, ids written so far."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from omnialign.content import NAMES
from omnialign.errors import InvalidArgument, OmnialignError
from omnialign.modeling.adapters import Adapter
from omnialign.modeling.adapters.features import video_metadata
from omnialign.modeling.decoding import DecodedMedia
from omnialign.modeling.inputs import MediaBytes, MediaLoss, MediaPolicy, Turn
from omnialign.v1 import content_pb2, generation_pb2
from services.inference import stop_strings
from services.inference.engine import EngineRequest
from services.inference.errors import engine_closed, prompt_unreadable, schema_unsupported, tokens_unsupported

NEVER = -100.0
"""The strongest bias that vLLM takes; reported log-probabilities are those without it."""


class MediaLost(Exception):
    """vLLM's processes disagree on which media both of them have cached.

    That happens after a prompt was rendered and then not run, because it was too long or cancelled. vLLM has noted it,
    and sends the media when the prompt is rendered again.
    """


@dataclass(frozen=True)
class VllmPrompt:
    """A prompt as vLLM's renderer takes it, and what was left out of its media."""

    fields: dict[str, Any]
    losses: tuple[MediaLoss, ...] = ()


def takes_media(adapter: Adapter) -> bool:
    """Whether a model gets decoded media beside its ids, as processor models do."""
    return hasattr(adapter, "placeholders")


def prompt_of(adapter: Adapter, request: EngineRequest) -> VllmPrompt:
    """A prompt for vLLM. Raises what the adapter raises for one that cannot be read, or Internal PROMPT_UNREADABLE."""
    try:
        return _prompt_of(adapter, request.turns, request.policy)
    except OmnialignError:
        raise
    except Exception as error:  # a codec met something unforeseen, which concerns this request alone
        raise prompt_unreadable(error) from error


def _prompt_of(adapter: Adapter, turns: Sequence[Turn], policy: MediaPolicy) -> VllmPrompt:
    if not takes_media(adapter):
        inputs = adapter.encode(turns, policy)
        return VllmPrompt({"prompt_token_ids": inputs.ids}, inputs.losses)
    # Each medium is one placeholder in the ids, which vLLM's own processor expands. Its name is its digest and the
    # policy, under which vLLM caches its features: the same medium is encoded once.
    found = adapter.placeholders(turns, policy)  # type: ignore[attr-defined]
    data: dict[str, list[Any]] = {}
    names: dict[str, list[str]] = {}
    # A model whose ids contain its media already has none beside them.
    for medium, decoded in zip(media_of(turns) if found.media else (), found.media, strict=True):
        kind = NAMES[decoded.modality]
        data.setdefault(kind, []).append(_to_vllm(decoded))
        names.setdefault(kind, []).append(f"{medium.sha256}-{policy.identity}")
    media = {"multi_modal_data": data, "multi_modal_uuids": names} if data else {}
    losses = tuple(decoded.loss for decoded in found.media if decoded.loss is not None)
    return VllmPrompt({"prompt_token_ids": list(found.ids), **media}, losses)


def media_of(turns: Sequence[Turn]) -> list[MediaBytes]:
    """The media of a conversation, in reading order."""
    return [piece for turn in turns for piece in turn.pieces if isinstance(piece, MediaBytes)]


def order_of(request: EngineRequest) -> tuple[list[str], list[str]]:
    """Sort key that puts requests with the same media and the same beginning next to each other.

    vLLM serves in order of arrival and evicts the least recently used entries of its caches, so neighbours share them.
    """
    texts = [piece for turn in request.turns for piece in turn.pieces if isinstance(piece, str)]
    return [medium.sha256 for medium in media_of(request.turns)], texts


def _to_vllm(decoded: DecodedMedia) -> Any:
    """A medium in the form that vLLM knows for its modality."""
    if decoded.modality == content_pb2.MODALITY_AUDIO:
        return decoded.array, decoded.rate
    if decoded.modality == content_pb2.MODALITY_VIDEO:
        sampled = {"do_sample_frames": False, "video_backend": "omnialign"}  # the policy has sampled the frames
        return decoded.array, video_metadata(decoded) | sampled
    return Image.fromarray(decoded.array)  # vLLM would guess the axes of an array


def sampling_of(request: EngineRequest, adapter: Adapter, max_new_tokens: int) -> Any:
    """vLLM's sampling parameters for a request. Raises JSON_SCHEMA_UNSUPPORTED, TOKENS_UNSUPPORTED."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    sampling = request.sampling
    is_followed = bool(stop_strings.stops_of(sampling)) or request.on_progress is not None
    return SamplingParams(
        max_tokens=max_new_tokens,
        temperature=sampling.temperature,
        top_p=sampling.top_p or 1.0,
        seed=request.seed if sampling.temperature > 0 else None,
        stop_token_ids=list(adapter.end_ids),
        ignore_eos=True,  # the adapter's end ids are the only ones, as on every engine
        detokenize=False,
        logprobs=_logprobs(request),
        structured_outputs=_structured_outputs(request, adapter),
        logit_bias=dict.fromkeys(adapter.unwritable_ids, NEVER) or None,
        # Stop strings are searched for in what the adapter decodes, which needs every token as it comes.
        output_kind=RequestOutputKind.CUMULATIVE if is_followed else RequestOutputKind.FINAL_ONLY,
    )


def _logprobs(request: EngineRequest) -> int | None:
    """How many further tokens vLLM reports beside each that it writes; None if it reports no log-probabilities."""
    if not request.return_tokens:
        return None
    # vLLM reports those of softmax(logits), or else of what is left of softmax(logits / temperature) after constraints
    # and top-p. The contract's are before both, so only the first will do, and only without a temperature.
    if request.sampling.temperature not in (0.0, 1.0):
        why = f"whose vLLM engine does not report them at the temperature {request.sampling.temperature:g}"
        mend = "sample with the temperature 1 or 0, or use the transformers engine"
        raise tokens_unsupported(request.model, why, mend)
    return 0


def _structured_outputs(request: EngineRequest, adapter: Adapter) -> Any:
    if not request.json_schema:
        return None
    if not takes_media(adapter):
        raise schema_unsupported(request.model, "reads and writes with a tokenizer that vLLM does not have")
    from vllm.sampling_params import StructuredOutputsParams

    return StructuredOutputsParams(json=request.json_schema)


@dataclass
class Answer:
    """What vLLM has written for a request so far."""

    adapter: Adapter
    stops: Sequence[str] = ()
    ids: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)
    """Of the ids, if they were asked for."""
    finish_reason: int = generation_pb2.FINISH_REASON_UNSPECIFIED

    def update(self, output: Any) -> bool:
        """Takes an output, which has all ids so far; True when the answer has ended. Raises why vLLM broke it off."""
        (completion,) = output.outputs
        ids = list(completion.token_ids)
        entries = completion.logprobs or ()
        self.log_probs = [entry[token].logprob for entry, token in zip(entries, ids, strict=bool(entries))]
        # An output may bring several new ids. Each prefix is checked, because the answer ends at the first stop.
        for count in range(len(self.ids) + 1, len(ids) + 1) if self.stops else ():
            if stop_strings.is_met(self.adapter, ids[:count], self.stops):
                self.ids, self.finish_reason = ids[:count], generation_pb2.FINISH_REASON_STOP
                self.log_probs = self.log_probs[:count]
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
        raise MediaLost
    raise engine_closed()  # aborted, and not by us


def rejected(error: Exception) -> OmnialignError:
    """The error of a request that vLLM does not take."""
    return InvalidArgument(f"vLLM rejects the request: {' '.join(str(error).split())}", reason="REQUEST_REFUSED")
