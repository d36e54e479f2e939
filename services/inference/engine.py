"""What every engine offers: prompts in, pieces out, one result per request in the order they finish.

Requests of several models in one call: each model's run by itself, the results in the order they come."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Protocol

from omnialign.errors import OmnialignError
from omnialign.modeling.inputs import NO_BOUNDS, MediaLoss, MediaPolicy, Pieces, Turn
from omnialign.v1 import generation_pb2
from services.inference.errors import first_error


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


Deliver = Callable[[EngineResult], None]
Run = Callable[[str, Sequence[EngineRequest], Deliver], Awaitable[None]]
"""Runs the requests of one model and delivers one result for each; raises what concerns all of them."""


async def fan_out(requests: Sequence[EngineRequest], run: Run) -> AsyncGenerator[EngineResult, None]:
    """One result per request, as each finishes. Closing it cancels what still runs; what `run` raises ends all."""
    by_model: dict[str, list[EngineRequest]] = defaultdict(list)
    for request in requests:
        by_model[request.model].append(request)
    results: asyncio.Queue[EngineResult | BaseException] = asyncio.Queue()
    tasks = [asyncio.create_task(_guarded(run, model, group, results)) for model, group in by_model.items()]
    try:
        for _ in requests:
            result = await results.get()
            if isinstance(result, BaseException):
                raise result
            yield result
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _guarded(
    run: Run, model: str, requests: Sequence[EngineRequest], results: asyncio.Queue[EngineResult | BaseException]
) -> None:
    try:
        await run(model, requests, results.put_nowait)
    except BaseExceptionGroup as errors:
        results.put_nowait(first_error(errors))
    except Exception as error:  # raised in `fan_out`, which waits for it
        results.put_nowait(error)
