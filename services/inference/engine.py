"""What every engine offers: prompts in, pieces out, one result per request in the order they finish."""

from collections.abc import AsyncGenerator, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Protocol

from omnialign.errors import OmnialignError
from omnialign.modeling.inputs import MediaLoss
from omnialign.modeling.messages import Pieces, Turn
from omnialign.modeling.policy import NO_BOUNDS, MediaPolicy
from omnialign.v1 import generation_pb2


@dataclass(frozen=True)
class EngineRequest:
    """One prompt for one model. `id` is the caller's, repeated in the result; `template` goes into the lineage."""

    id: str
    model: str
    turns: tuple[Turn, ...]
    sampling: generation_pb2.SamplingParams
    seed: int = 0
    template: str = ""
    policy: MediaPolicy = NO_BOUNDS
    json_schema: str = ""
    """A JSON schema that the answer is held to by an engine that can; others let the model write freely."""


@dataclass(frozen=True)
class EngineResult:
    """What became of one request: the pieces of the answer, or the error that concerns this request alone.

    `info` is filled as far as the request came: an answer that cannot be read has its token counts too.
    """

    id: str
    pieces: Pieces = ()
    error: OmnialignError | None = None
    info: generation_pb2.GenerationInfo = field(default_factory=generation_pb2.GenerationInfo)


def info_of(request: EngineRequest, losses: Iterable[MediaLoss] = ()) -> generation_pb2.GenerationInfo:
    """What is known before a request ran; `losses` is what its prompt lacks of its media."""
    return generation_pb2.GenerationInfo(
        model=request.model,
        sampling=request.sampling,
        seed=request.seed,
        template=request.template,
        media_losses=[generation_pb2.MediaLoss(**asdict(loss)) for loss in losses],
    )


def engine_result(
    request_id: str, answer: Pieces | OmnialignError, info: generation_pb2.GenerationInfo
) -> EngineResult:
    """The result of a request whose answer was read, or could not be."""
    if isinstance(answer, OmnialignError):
        return EngineResult(request_id, error=answer, info=info)
    return EngineResult(request_id, pieces=answer, info=info)


class Engine(Protocol):
    """Runs models."""

    def generate(
        self, requests: Sequence[EngineRequest], *, deterministic: bool = False
    ) -> AsyncGenerator[EngineResult, None]:
        """One result per request, as each finishes.

        Raises what concerns all of them: a model that cannot be had (MODEL_NOT_FOUND, MODEL_TOO_LARGE,
        MODEL_LOAD_FAILED, MODEL_HAS_PICKLE, MODEL_HAS_NO_ADAPTER, LORA_UNSUPPORTED) or a full queue (QUEUE_FULL).
        Closing the iterator drops the requests that are not done. With `deterministic` all requests form one batch, in
        order, in float32; a batch that does not fit raises BATCH_TOO_LARGE.
        """
        ...

    async def load(self, model: str) -> None:
        """Makes a model resident."""
        ...

    async def unload(self, model: str) -> None:
        """Frees a model's memory; nothing happens if it is not resident. Raises FailedPrecondition MODEL_IN_USE."""
        ...
