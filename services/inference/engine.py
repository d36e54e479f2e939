"""The engine protocol: prompts in, answers out, one result per request as each finishes.

An engine runs the requests of one model (`run`) and keeps models in memory (`load`, `unload`). Callers use `generate`,
which all engines inherit: it groups requests by model, runs the groups side by side and merges their results. That is
the only place where requests are grouped.
"""

import asyncio
import math
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field

from omnialign.errors import OmnialignError
from omnialign.modeling.inputs import NO_BOUNDS, MediaLoss, MediaPolicy, Pieces, Turn
from omnialign.v1 import generation_pb2
from services.inference.errors import first_error


@dataclass(frozen=True)
class EngineRequest:
    """One prompt for one model."""

    id: str
    """The caller's name for the request, repeated in the result; unique within a call."""
    model: str
    turns: tuple[Turn, ...]
    sampling: generation_pb2.SamplingParams
    seed: int = 0
    """Seed of the request's own random stream."""
    template: str = ""
    """Prompt template with its hash; it goes into the lineage."""
    policy: MediaPolicy = NO_BOUNDS
    json_schema: str = ""
    """JSON schema of the answer. Engines that cannot enforce a schema let the model write freely."""
    requires_schema: bool = False
    """Whether an engine that cannot enforce the schema fails the request instead (JSON_SCHEMA_UNSUPPORTED)."""
    return_tokens: bool = False
    """Whether the result carries the ids and log-probabilities of its tokens."""
    answer: Pieces | None = None
    """The answer to which a reward model is to give a reward; with None, the model writes one."""
    choices: tuple[Pieces, ...] = ()
    """Answers that the model is to weigh against each other; it writes none then. All requests of a call have some, or
    none has."""
    on_progress: Callable[[Pieces], None] | None = field(default=None, compare=False)
    """Called on the event loop, some times a second, with all that can be read of the answer so far: each time the last
    text may be longer and further pieces may follow. Endpoints answer whole, so for them it is never called."""


@dataclass(frozen=True)
class EngineResult:
    """The outcome of one request: the pieces of its answer, or the error that concerns this request alone.

    `info` is filled as far as the request got: an answer that cannot be decoded has token counts too.
    """

    id: str
    pieces: Pieces = ()
    error: OmnialignError | None = None
    info: generation_pb2.GenerationInfo = field(default_factory=generation_pb2.GenerationInfo)
    tokens: generation_pb2.GeneratedTokens | None = None
    """Of a request with `return_tokens`, once its model has written something."""
    reward: float | None = None
    """Of a request with an `answer`: a finite number."""
    choice_log_probs: tuple[float, ...] = ()
    """Of a request with `choices`: for each the log-probability, in nats, of what follows the tokens that all of them
    begin with, the end token included. So their differences are those of the whole answers, without the rounding of a
    long sum."""

    @classmethod
    def of(
        cls,
        request_id: str,
        answer: Pieces | OmnialignError,
        info: generation_pb2.GenerationInfo,
        tokens: generation_pb2.GeneratedTokens | None = None,
    ) -> "EngineResult":
        """The result of a request whose answer was decoded, or could not be."""
        if isinstance(answer, OmnialignError):
            return cls(request_id, error=answer, info=info, tokens=tokens)
        return cls(request_id, pieces=answer, info=info, tokens=tokens)


Deliver = Callable[[EngineResult], None]
"""Takes one result; called on the event loop."""


class Engine(ABC):
    """Runs models."""

    async def generate(
        self, requests: Sequence[EngineRequest], *, deterministic: bool = False
    ) -> AsyncGenerator[EngineResult, None]:
        """One result per request, as each finishes; requests may name different models.

        Raises whatever concerns the call as a whole: a model that cannot be used (MODEL_NOT_FOUND, MODEL_TOO_LARGE,
        MODEL_LOAD_FAILED, MODEL_HAS_PICKLE, MODEL_HAS_NO_ADAPTER, LORA_UNSUPPORTED) or a full queue (QUEUE_FULL).
        Closing the iterator cancels the requests that are not finished. With `deterministic`, the requests of a model
        form one batch, in order, in float32; a batch that does not fit raises BATCH_TOO_LARGE.
        """
        by_model: dict[str, list[EngineRequest]] = defaultdict(list)
        for request in requests:
            by_model[request.model].append(request)
        results: asyncio.Queue[EngineResult | BaseException] = asyncio.Queue()

        async def run_group(model: str, group: Sequence[EngineRequest]) -> None:
            try:
                await self.run(model, group, results.put_nowait, deterministic=deterministic)
            except BaseExceptionGroup as errors:
                results.put_nowait(first_error(errors))
            except Exception as error:  # raised below, where the caller waits
                results.put_nowait(error)

        tasks = [asyncio.create_task(run_group(model, group)) for model, group in by_model.items()]
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

    @abstractmethod
    async def run(
        self, model: str, requests: Sequence[EngineRequest], deliver: Deliver, *, deterministic: bool
    ) -> None:
        """Runs requests that all name `model`, and delivers one result for each. Raises what concerns all of them."""

    @abstractmethod
    async def load(self, model: str) -> None:
        """Makes a model resident."""

    @abstractmethod
    async def unload(self, model: str) -> None:
        """Frees a model's memory, if it is resident. Raises FailedPrecondition MODEL_IN_USE."""


def weighed_result(request: EngineRequest, choices: Sequence[EngineResult]) -> EngineResult:
    """The result of a request, given that of each of its choices with the tokens in which the choices differ."""
    infos = [choice.info for choice in choices]
    info = info_of(request, losses=())
    info.prompt_tokens = max(info.prompt_tokens for info in infos)
    info.media_losses.extend(infos[0].media_losses)
    error = next((choice.error for choice in choices if choice.tokens is None), None)
    if error is not None:
        return EngineResult(request.id, error=error, info=info)
    log_probs = tuple(math.fsum(choice.tokens.log_probs) for choice in choices if choice.tokens is not None)
    return EngineResult(request.id, choice_log_probs=log_probs, info=info)


def info_of(request: EngineRequest, losses: Iterable[MediaLoss] = ()) -> generation_pb2.GenerationInfo:
    """What is known of a request before it runs; `losses` are the parts of its media that the prompt lacks."""
    return generation_pb2.GenerationInfo(
        model=request.model,
        sampling=request.sampling,
        seed=request.seed,
        template=request.template,
        media_losses=[generation_pb2.MediaLoss(**asdict(loss)) for loss in losses],
    )
