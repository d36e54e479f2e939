"""Sampling settings and results between our requests and vLLM's."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from omnialign.errors import FailedPrecondition, InvalidArgument, OmnialignError
from omnialign.modeling.adapters import Adapter
from omnialign.v1 import generation_pb2
from services.inference import stops
from services.inference.engine import EngineRequest
from services.inference.faults import engine_closed
from services.inference.vllm_prompts import takes_media


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
            if stops.stop_met(self.adapter, ids[:count], self.stops):
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
