"""The engine that asks OpenAI-compatible endpoints: `vllm serve`, or any other server of that API.

Each request is one task, which waits for a slot at its endpoint. An error that one prompt causes is that request's
result; an error that any prompt would meet (no such model, a wrong key, an endpoint that is gone) ends the call.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from prometheus_client import CollectorRegistry

from omnialign.errors import FailedPrecondition, InvalidArgument, OmnialignError, PermissionDenied
from omnialign.modeling.adapters import Adapter
from omnialign.modeling.feature_cache import NO_CACHE, Cache
from omnialign.modeling.inputs import MediaLoss
from omnialign.v1 import generation_pb2
from services.inference.codec_pool import CodecPool
from services.inference.config import EngineConfig
from services.inference.engine import Deliver, Engine, EngineRequest, EngineResult, info_of
from services.inference.errors import not_found, queue_full, reward_unsupported, tokens_unsupported
from services.inference.metrics import FINISH_OUTCOMES
from services.inference.model_uri import EndpointModel, base_url_of, parse_endpoint_model
from services.inference.models.key import load_model_adapter, open_feature_cache
from services.inference.models.resolver import ModelResolver, Registry
from services.inference.openai.api import Api, Reply
from services.inference.openai.chat import ChatCompletions
from services.inference.openai.completions import TokenCompletions
from services.inference.openai.concurrency import Clock, SystemClock
from services.inference.openai.endpoint import ApiKeys, Attempts, Endpoint
from services.inference.openai.metrics import EndpointMetrics

ENDPOINT_ERRORS = frozenset({"ENDPOINT_UNAVAILABLE", "ENDPOINT_INVALID"})
"""Errors of the endpoint as a whole, unless it has answered other requests since it began to fail."""


@dataclass(frozen=True)
class Target:
    """A model, where it is, and by which API it is asked."""

    model: EndpointModel
    endpoint: Endpoint
    api: Api


class OpenAIEngine(Engine):
    """Asks endpoints. Open it with `open_openai_engine`."""

    def __init__(
        self,
        config: EngineConfig,
        resolver: ModelResolver,
        metrics: EndpointMetrics,
        clock: Clock,
        features: Cache = NO_CACHE,
    ) -> None:
        self._config, self._resolver, self._metrics, self._clock = config, resolver, metrics, clock
        self._features = features
        self._allowed = {base_url_of(url, model=url) for url in config.openai_endpoints}
        self._keys = ApiKeys(config.openai_keys_file)
        self._codecs = CodecPool(config.codec_threads)
        self._endpoints: dict[str, Endpoint] = {}
        self._adapters: dict[str, asyncio.Task[Adapter]] = {}
        self._num_unfinished = 0

    async def close(self) -> None:
        """Closes the connections and ends the threads."""
        self._codecs.close()
        await asyncio.gather(*(endpoint.close() for endpoint in self._endpoints.values()))

    async def load(self, model: str) -> None:
        """Checks that the endpoint has the model. Raises MODEL_NOT_FOUND, and what `run` raises."""
        target = await self._target(model)
        if not await target.endpoint.has_model(target.model):
            raise not_found(model, "the endpoint does not list it")

    async def unload(self, model: str) -> None:
        """Does nothing: the memory is the endpoint's."""

    async def run(
        self, model: str, requests: Sequence[EngineRequest], deliver: Deliver, *, deterministic: bool
    ) -> None:
        """Runs requests for one model; the first error that concerns all of them ends the call.

        Raises MODEL_NAME_INVALID, ENDPOINT_NOT_ALLOWED, ENDPOINT_NOT_DETERMINISTIC, TOKENS_UNSUPPORTED,
        REWARD_UNSUPPORTED, ENDPOINT_REFUSED, ENDPOINT_INVALID, ENDPOINT_UNAVAILABLE, MODEL_NOT_FOUND, QUEUE_FULL, and
        what finding an adapter raises.
        """
        if deterministic:
            raise not_deterministic(model)
        if any(request.return_tokens or request.choices for request in requests):
            mend = "drop it, or name a model that the service itself runs"
            why = "which is behind an endpoint that gives text and no tokens"
            field = "with_margins" if requests[0].choices else "return_tokens"
            raise tokens_unsupported(model, why, mend, field=field)
        if any(request.answer is not None for request in requests):
            raise reward_unsupported(model, "which is behind an endpoint that gives text and no rewards")
        if self._num_unfinished + len(requests) > self._config.max_waiting:
            raise queue_full(waiting=self._num_unfinished, new=len(requests), bound=self._config.max_waiting)
        self._num_unfinished += len(requests)
        try:
            target = await self._target(model)
            async with asyncio.TaskGroup() as group:
                for request in requests:
                    group.create_task(self._run_one(request, target, deliver))
        finally:
            self._num_unfinished -= len(requests)

    async def _run_one(self, request: EngineRequest, target: Target, deliver: Deliver) -> None:
        """Delivers the result of one request. Raises an error that ends the call."""
        outcome, attempts = "cancelled", target.endpoint.attempts()
        try:
            result = await self._ask(request, target, attempts)
            outcome = "error" if result.error is not None else FINISH_OUTCOMES[result.info.finish_reason]
        except Exception as error:
            outcome = "error"
            if not isinstance(error, OmnialignError) or concerns_all(error, target.endpoint, attempts):
                raise
            result = EngineResult(request.id, error=error, info=info_of(request))
        finally:
            self._metrics.requests.labels(target.endpoint.base_url, outcome).inc()
        deliver(result)

    async def _ask(self, request: EngineRequest, target: Target, attempts: Attempts) -> EngineResult:
        """The result of a request. If prompt and bound together are too long, it is asked again without the bound."""
        try:
            return await self._ask_once(request, target, attempts, bounded=True)
        except InvalidArgument as error:
            if error.reason != "PROMPT_TOO_LONG" or not request.sampling.max_new_tokens:
                raise
        return await self._ask_once(request, target, attempts, bounded=False)

    async def _ask_once(
        self, request: EngineRequest, target: Target, attempts: Attempts, *, bounded: bool
    ) -> EngineResult:
        losses: tuple[MediaLoss, ...] = ()

        async def body() -> bytes:
            nonlocal losses
            made = await target.api.body(request, bounded=bounded)
            losses = made.losses
            return made.json

        answered = await target.endpoint.ask(target.api.path, body, model=target.model, attempts=attempts)
        reply = await target.api.reply(request, answered.json, target.endpoint.error_context(target.model))
        target.endpoint.mark_useful()
        for direction, count in (("in", reply.prompt_tokens), ("out", reply.completion_tokens)):
            self._metrics.tokens.labels(target.endpoint.base_url, direction).inc(count)
        return EngineResult.of(request.id, reply.answer, _info(request, reply, losses, seconds=answered.seconds))

    async def _target(self, name: str) -> Target:
        """Where and how a model is asked. Raises what forbids it."""
        model = parse_endpoint_model(name)
        if model.base_url not in self._allowed:
            raise _not_allowed(model)
        api: Api
        if model.adapter:
            api = TokenCompletions(model, self._codecs, await self._adapter(model.adapter))
        else:
            api = ChatCompletions(model, self._codecs)
        return Target(model, self._endpoint(model.base_url), api)

    def _endpoint(self, base_url: str) -> Endpoint:
        if base_url not in self._endpoints:
            self._endpoints[base_url] = Endpoint(
                base_url, self._config, keys=self._keys, clock=self._clock, metrics=self._metrics
            )
        return self._endpoints[base_url]

    async def _adapter(self, name: str) -> Adapter:
        """The adapter of a model, loaded once. Raises what finding and loading it raise."""
        if name not in self._adapters:
            self._adapters[name] = asyncio.create_task(self._load_adapter(name))
        task = self._adapters[name]
        try:
            return await asyncio.shield(task)  # it continues for other callers if this one is cancelled
        except OmnialignError:
            if self._adapters.get(name) is task:  # the next caller tries again
                del self._adapters[name]
            raise

    async def _load_adapter(self, name: str) -> Adapter:
        folder = await self._resolver.folder(name)
        try:
            return await asyncio.to_thread(load_model_adapter, folder, name, self._features)
        except FailedPrecondition as error:  # callers of endpoints know every such failure by this reason
            reason = "MODEL_HAS_NO_ADAPTER"
            raise FailedPrecondition(error.message, reason=reason, metadata=error.metadata) from error


def concerns_all(error: OmnialignError, endpoint: Endpoint, attempts: Attempts) -> bool:
    """Whether any request would meet an error, so that it ends the call."""
    if error.reason in ENDPOINT_ERRORS:
        # An endpoint that answered others while this request kept failing is alive: the request itself is to blame.
        return not endpoint.was_useful_since(attempts.failing_since)
    return error.reason in {"MODEL_NOT_FOUND", "ENDPOINT_REFUSED", "ENGINE_CLOSED"}


def not_deterministic(model: str) -> InvalidArgument:
    """The error for requests that must give the same tokens every time, which an endpoint cannot promise."""
    return InvalidArgument(
        f"{model} is behind an endpoint, which cannot promise the same tokens every time; drop `deterministic`, or "
        "name a model that the service itself runs.",
        reason="ENDPOINT_NOT_DETERMINISTIC",
        metadata={"model": model},
    )


def _not_allowed(model: EndpointModel) -> PermissionDenied:
    return PermissionDenied(
        f"The endpoint {model.base_url} may not be asked; the operator must add it to "
        "OMNIALIGN_ENGINE_OPENAI_ENDPOINTS.",
        reason="ENDPOINT_NOT_ALLOWED",
        metadata={"endpoint": model.base_url},
    )


def _info(
    request: EngineRequest, reply: Reply, losses: Sequence[MediaLoss], *, seconds: float
) -> generation_pb2.GenerationInfo:
    """What the lineage keeps of an answer."""
    info = info_of(request, losses)
    info.prompt_tokens, info.completion_tokens = reply.prompt_tokens, reply.completion_tokens
    info.finish_reason = reply.finish_reason  # type: ignore[assignment]
    info.latency.FromNanoseconds(int(seconds * 1e9))
    return info


@asynccontextmanager
async def open_openai_engine(
    config: EngineConfig,
    *,
    models: Registry | None = None,
    metrics: CollectorRegistry | None = None,
    clock: Clock | None = None,
) -> AsyncIterator[OpenAIEngine]:
    """An engine that runs while the context lasts. `models` is where adapters of `projects/...` names are looked up."""
    logging.getLogger("httpx2").setLevel(logging.WARNING)  # it logs every request
    registry = CollectorRegistry() if metrics is None else metrics
    resolver, features = ModelResolver.of(config, models), open_feature_cache(config, registry)
    engine = OpenAIEngine(config, resolver, EndpointMetrics(registry), clock or SystemClock(), features)
    try:
        yield engine
    finally:
        await engine.close()
