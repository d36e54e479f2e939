"""The engine that asks OpenAI-compatible endpoints: `vllm serve`, or any other that speaks the API.

A request is one task, which waits at its endpoint's gate. What one prompt is to blame for is that request's result;
what would meet any prompt (no such model, a wrong key, an endpoint that is gone) ends the call.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass

from prometheus_client import CollectorRegistry

from omnialign.errors import FailedPrecondition, InvalidArgument, OmnialignError, PermissionDenied, ResourceExhausted
from omnialign.modeling.adapters import Adapter, load_adapter
from omnialign.modeling.feature_cache import NO_CACHE, Cache
from omnialign.modeling.inputs import MediaLoss
from omnialign.v1 import generation_pb2
from services.inference.codec_pool import Translator
from services.inference.config import EngineConfig
from services.inference.engine import Deliver, EngineRequest, EngineResult, engine_result, fan_out, info_of
from services.inference.errors import not_found
from services.inference.metrics import FINISH_OUTCOMES
from services.inference.model_uri import EndpointModel, base_url_of, parse
from services.inference.models.adapter import open_feature_cache
from services.inference.models.download_cache import ModelCache
from services.inference.models.resolver import ModelResolver, Registry
from services.inference.openai.api import Dialect, Reply
from services.inference.openai.chat import ChatDialect
from services.inference.openai.completions import TokenDialect
from services.inference.openai.concurrency import Clock, SystemClock
from services.inference.openai.endpoint import Endpoint, Keys
from services.inference.openai.errors import RetryBudget
from services.inference.openai.metrics import EndpointMetrics

OF_THE_ENDPOINT = frozenset({"ENDPOINT_UNAVAILABLE", "ENDPOINT_INVALID"})
"""Errors that tell of the whole endpoint, unless it has served others since the trouble began."""


@dataclass(frozen=True)
class Target:
    """A model as it is asked: where, by which name, in which way."""

    model: EndpointModel
    endpoint: Endpoint
    dialect: Dialect


class OpenAIEngine:
    """Asks endpoints. Build it with `open_openai_engine`."""

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
        self._keys = Keys(config.openai_keys_file)
        self._translator = Translator(config.codec_threads)
        self._endpoints: dict[str, Endpoint] = {}
        self._adapters: dict[str, asyncio.Task[Adapter]] = {}
        self._waiting = 0

    async def close(self) -> None:
        """Closes the connections and ends the threads."""
        self._translator.close()
        await asyncio.gather(*(endpoint.close() for endpoint in self._endpoints.values()))

    async def load(self, model: str) -> None:
        """Sees that the endpoint has the model. Raises MODEL_NOT_FOUND, and what `generate` raises."""
        target = await self._target(model)
        if not await target.endpoint.has_model(target.model):
            raise not_found(model, "the endpoint does not list it")

    async def unload(self, model: str) -> None:
        """Does nothing: the memory is the endpoint's."""

    async def generate(
        self, requests: Sequence[EngineRequest], *, deterministic: bool = False
    ) -> AsyncGenerator[EngineResult, None]:
        """One result per request, as each finishes; see `Engine.generate`.

        Raises MODEL_NAME_INVALID, ENDPOINT_NOT_ALLOWED, ENDPOINT_NOT_DETERMINISTIC, ENDPOINT_REFUSED, ENDPOINT_INVALID,
        ENDPOINT_UNAVAILABLE, MODEL_NOT_FOUND, QUEUE_FULL, and what finding an adapter raises.
        """
        if deterministic:
            raise not_deterministic(requests[0].model if requests else "")
        self._check_queue(len(requests))
        self._waiting += len(requests)
        try:
            results = fan_out(requests, self._run)
            async with aclosing(results):
                async for result in results:
                    yield result
        finally:
            self._waiting -= len(requests)

    async def _run(self, model: str, requests: Sequence[EngineRequest], deliver: Deliver) -> None:
        """Runs the requests of one model; the first error that concerns all of them ends the others."""
        target = await self._target(model)
        async with asyncio.TaskGroup() as group:
            for request in requests:
                group.create_task(self._deliver(request, target, deliver))

    async def _deliver(self, request: EngineRequest, target: Target, deliver: Deliver) -> None:
        """Delivers the result of a request. Raises the error that ends the call."""
        outcome, budget = "cancelled", target.endpoint.budget()
        try:
            result = await self._ask(request, target, budget)
            outcome = "error" if result.error is not None else FINISH_OUTCOMES[result.info.finish_reason]
        except Exception as error:
            outcome = "error"
            if not isinstance(error, OmnialignError) or concerns_all(error, target.endpoint, budget):
                raise
            result = EngineResult(request.id, error=error, info=info_of(request))
        finally:
            self._metrics.requests.labels(target.endpoint.base_url, outcome).inc()
        deliver(result)

    async def _ask(self, request: EngineRequest, target: Target, budget: RetryBudget) -> EngineResult:
        """The result of a request; where prompt and bound together are too long, the bound gives way."""
        try:
            return await self._ask_once(request, target, budget, bounded=True)
        except InvalidArgument as error:
            if error.reason != "PROMPT_TOO_LONG" or not request.sampling.max_new_tokens:
                raise
        return await self._ask_once(request, target, budget, bounded=False)

    async def _ask_once(
        self, request: EngineRequest, target: Target, budget: RetryBudget, *, bounded: bool
    ) -> EngineResult:
        losses: tuple[MediaLoss, ...] = ()

        async def body() -> bytes:
            nonlocal losses
            made = await target.dialect.body(request, bounded=bounded)
            losses = made.losses
            return made.json

        answered = await target.endpoint.ask(target.dialect.path, body, model=target.model, budget=budget)
        reply = await target.dialect.reply(request, answered.json, target.endpoint.source(target.model))
        target.endpoint.used()
        self._count(target, reply)
        return engine_result(request.id, reply.answer, _info(request, reply, losses, seconds=answered.seconds))

    def _count(self, target: Target, reply: Reply) -> None:
        for direction, count in (("in", reply.prompt_tokens), ("out", reply.completion_tokens)):
            self._metrics.tokens.labels(target.endpoint.base_url, direction).inc(count)

    def _check_queue(self, new: int) -> None:
        if self._waiting + new > self._config.max_waiting:
            raise ResourceExhausted(
                f"{self._waiting} requests wait already; {new} more are too many. Try again later.",
                reason="QUEUE_FULL",
                metadata={"waiting": str(self._waiting), "bound": str(self._config.max_waiting)},
            )

    async def _target(self, name: str) -> Target:
        """How a model is asked. Raises what forbids it."""
        model = parse(name)
        if model.base_url not in self._allowed:
            raise _not_allowed(model)
        dialect: Dialect
        if model.adapter:
            dialect = TokenDialect(model, self._translator, await self._adapter(model.adapter))
        else:
            dialect = ChatDialect(model, self._translator)
        return Target(model, self._endpoint(model.base_url), dialect)

    def _endpoint(self, base_url: str) -> Endpoint:
        if base_url not in self._endpoints:
            self._endpoints[base_url] = Endpoint(
                base_url, self._config, keys=self._keys, clock=self._clock, metrics=self._metrics
            )
        return self._endpoints[base_url]

    async def _adapter(self, name: str) -> Adapter:
        """The adapter of a model at hand, loaded once. Raises what finding it raises, or MODEL_HAS_NO_ADAPTER."""
        if name not in self._adapters:
            self._adapters[name] = asyncio.create_task(self._load_adapter(name))
        task = self._adapters[name]
        try:
            return await asyncio.shield(task)
        except OmnialignError:
            if self._adapters.get(name) is task:
                del self._adapters[name]
            raise

    async def _load_adapter(self, name: str) -> Adapter:
        folder = await self._resolver.folder(name)
        try:
            return await asyncio.to_thread(load_adapter, folder, self._features)
        except Exception as error:
            why = error.message if isinstance(error, OmnialignError) else f"{type(error).__name__}: {error}"
            raise FailedPrecondition(
                f"The model {name} has no adapter that reads and writes its content: {why}",
                reason="MODEL_HAS_NO_ADAPTER",
                metadata={"model": name},
            ) from error


def concerns_all(error: OmnialignError, endpoint: Endpoint, budget: RetryBudget) -> bool:
    """Whether an error would meet any request, and so ends the call."""
    if error.reason in OF_THE_ENDPOINT:
        return not endpoint.was_used_since(budget.troubled_since)
    return error.reason in {"MODEL_NOT_FOUND", "ENDPOINT_REFUSED", "ENGINE_CLOSED"}


def not_deterministic(model: str) -> InvalidArgument:
    """The error for requests that must give the same tokens again, which an endpoint cannot promise."""
    return InvalidArgument(
        f"{model} is behind an endpoint, which cannot promise the same tokens again; ask without `deterministic`, or "
        "name a model that the service itself runs.",
        reason="ENDPOINT_NOT_DETERMINISTIC",
        metadata={"model": model},
    )


def _not_allowed(model: EndpointModel) -> PermissionDenied:
    return PermissionDenied(
        f"The endpoint {model.base_url} is not among those that may be asked; the operator lists it in "
        "OMNIALIGN_ENGINE_OPENAI_ENDPOINTS.",
        reason="ENDPOINT_NOT_ALLOWED",
        metadata={"endpoint": model.base_url},
    )


def _info(
    request: EngineRequest, reply: Reply, losses: Sequence[MediaLoss], *, seconds: float
) -> generation_pb2.GenerationInfo:
    """What lineage keeps of an answer."""
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
    """An engine that runs while this lasts. `models` is where the adapters of `projects/...` names are looked up."""
    logging.getLogger("httpx2").setLevel(logging.WARNING)  # it logs every request
    cache = ModelCache(config.model_cache, limit_bytes=config.model_cache_bytes)
    resolver = ModelResolver(models, roots=config.model_roots, cache=cache)
    registry = CollectorRegistry() if metrics is None else metrics
    features = open_feature_cache(config, registry)
    engine = OpenAIEngine(config, resolver, EndpointMetrics(registry), clock or SystemClock(), features)
    try:
        yield engine
    finally:
        await engine.close()
