"""The engine that runs `transformers` models in this process.

Event loop: finding models, one task per call. Codec threads: reading prompts and media into ids, and ids into answers.
Scheduler threads: the model. A call holds its model in memory until its last result is out.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from functools import partial

import torch
from prometheus_client import CollectorRegistry

from omnialign.errors import InvalidArgument, OmnialignError
from omnialign.modeling.adapters.features import check_joinable
from omnialign.modeling.feature_cache import NO_CACHE, Cache
from omnialign.modeling.inputs import MediaLoss, ModelInputs
from omnialign.v1 import generation_pb2
from services.inference.codec_pool import Translator
from services.inference.config import EngineConfig
from services.inference.engine import Deliver, EngineRequest, EngineResult, engine_result, fan_out, info_of
from services.inference.metrics import EngineMetrics
from services.inference.models.adapter import open_feature_cache
from services.inference.models.download_cache import ModelCache
from services.inference.models.key import ModelKey, pick_device
from services.inference.models.residency import Residency
from services.inference.models.resolver import ModelResolver, Registry
from services.inference.transformers.admission import Outcome, Ticket, Written, cache_bytes
from services.inference.transformers.loading import LoadedModel, load_model, measure
from services.inference.transformers.scheduler import Scheduler


@dataclass(frozen=True)
class Job:
    """A request with its ticket: what its result is made of."""

    request: EngineRequest
    ticket: Ticket
    losses: tuple[MediaLoss, ...] = ()

    def info(self, outcome: Outcome) -> generation_pb2.GenerationInfo:
        """What lineage keeps of the request."""
        info = info_of(self.request, self.losses)
        info.sampling.max_new_tokens = self.ticket.max_new_tokens
        info.prompt_tokens = len(self.ticket.ids)
        if isinstance(outcome, Written):
            info.completion_tokens = len(outcome.ids)
            info.finish_reason = outcome.finish_reason  # type: ignore[assignment]
            info.latency.FromNanoseconds(int(outcome.seconds * 1e9))
        return info


class TransformersEngine:
    """Runs models of `transformers`. Build it with `open_transformers_engine`."""

    def __init__(
        self, config: EngineConfig, resolver: ModelResolver, metrics: EngineMetrics, features: Cache = NO_CACHE
    ) -> None:
        self._config, self._resolver, self._metrics, self._features = config, resolver, metrics, features
        self._device = torch.device(pick_device(config.device))
        self._scheduler = Scheduler(config, metrics, on_cpu=self._device.type == "cpu")
        self._translator = Translator(config.codec_threads)
        self.residency = Residency(
            budget_bytes=config.model_budget_bytes,
            measure=self._measure,
            load=self._load,
            changed=metrics.resident,
            tenure_seconds=config.tenure_seconds,
        )

    def start(self) -> None:
        """Starts the thread that runs models."""
        self._scheduler.start()

    def close(self) -> None:
        """Ends the threads. Requests that are not done fail with Unavailable ENGINE_CLOSED."""
        self._scheduler.close()
        self._translator.close()

    async def load(self, model: str) -> None:
        """Makes a model resident."""
        async with self.residency.use(self._key(model, deterministic=False)):
            pass

    async def unload(self, model: str) -> None:
        """Frees a model's memory. Raises FailedPrecondition MODEL_IN_USE."""
        await self.residency.unload(model)

    async def generate(
        self, requests: Sequence[EngineRequest], *, deterministic: bool = False
    ) -> AsyncGenerator[EngineResult, None]:
        """One result per request, as each finishes; see `Engine.generate`."""
        run = partial(self._run, deterministic=deterministic)
        async with aclosing(fan_out(requests, run)) as results:
            async for result in results:
                yield result

    async def _run(
        self, model: str, requests: Sequence[EngineRequest], deliver: Deliver, *, deterministic: bool
    ) -> None:
        """Runs the requests of one model. Raises what concerns all of them."""
        async with self.residency.use(self._key(model, deterministic=deterministic)) as loaded:
            jobs = await self._read_all(loaded, requests, deterministic, deliver)
            await self._write_all(jobs, deterministic, deliver)

    async def _read_all(
        self,
        loaded: LoadedModel,
        requests: Sequence[EngineRequest],
        deterministic: bool,
        deliver: Deliver,
    ) -> list[Job]:
        """The jobs of all requests whose prompts can be read; the others have their results at once."""
        group = object() if deterministic else None
        found = await asyncio.gather(*(self._translator.read(loaded.adapter, request) for request in requests))
        jobs = []
        for request, inputs in zip(requests, found, strict=True):
            try:
                jobs.append(self._job(loaded, request, inputs, group))
            except OmnialignError as error:
                deliver(EngineResult(request.id, error=error, info=info_of(request)))
        return jobs

    def _job(
        self, loaded: LoadedModel, request: EngineRequest, inputs: ModelInputs | OmnialignError, group: object | None
    ) -> Job:
        """A request with its ticket. Raises what made its prompt unreadable, or InvalidArgument PROMPT_TOO_LONG."""
        if isinstance(inputs, OmnialignError):
            raise inputs
        room, sampling = self._room(loaded, len(inputs.ids), request), request.sampling
        return Job(
            request,
            Ticket(
                loaded=loaded,
                inputs=inputs,
                max_new_tokens=min(sampling.max_new_tokens or room, room),
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                seed=request.seed,
                stops=[stop for stop in sampling.stop if stop],
                deliver=lambda ticket, outcome: None,
                group=group,
            ),
            inputs.losses,
        )

    def _room(self, loaded: LoadedModel, prompt_tokens: int, request: EngineRequest) -> int:
        """Tokens that may follow the prompt. Raises InvalidArgument PROMPT_TOO_LONG."""
        context = min(loaded.context_tokens, self._config.cache_budget_bytes // loaded.cache_bytes_per_token)
        if prompt_tokens >= context:
            raise InvalidArgument(
                f"The prompt has {prompt_tokens} tokens; {request.model} reads and writes {context} together.",
                reason="PROMPT_TOO_LONG",
                metadata={"prompt_tokens": str(prompt_tokens), "context_tokens": str(context)},
            )
        return context - prompt_tokens

    async def _write_all(self, jobs: Sequence[Job], deterministic: bool, deliver: Deliver) -> None:
        """Runs jobs on the scheduler and hands out their results; drops those not done when cancelled."""
        if not jobs:
            return
        tickets = {job.ticket: job for job in jobs}
        if deterministic:
            self._check_fits(list(tickets))
        loop = asyncio.get_running_loop()
        outcomes: asyncio.Queue[tuple[Ticket, Outcome]] = asyncio.Queue()
        for ticket in tickets:
            ticket.deliver = lambda t, outcome: call_soon(loop, outcomes.put_nowait, (t, outcome))
        self._scheduler.submit(list(tickets))
        try:
            async with asyncio.TaskGroup() as group:
                for _ in jobs:
                    ticket, outcome = await outcomes.get()
                    group.create_task(self._finish(tickets.pop(ticket), outcome, deliver))
        finally:
            self._scheduler.cancel(list(tickets))

    def _check_fits(self, tickets: Sequence[Ticket]) -> None:
        check_joinable([ticket.inputs for ticket in tickets])
        size_bytes, budget_bytes = cache_bytes(tickets), self._config.cache_budget_bytes
        if size_bytes > budget_bytes:
            raise InvalidArgument(
                f"As one batch these {len(tickets)} requests take {size_bytes} bytes of cache, and the engine has "
                f"{budget_bytes}; send fewer items or lower max_new_tokens, or ask without `deterministic`.",
                reason="BATCH_TOO_LARGE",
                metadata={"size_bytes": str(size_bytes), "budget_bytes": str(budget_bytes)},
            )

    async def _finish(self, job: Job, outcome: Outcome, deliver: Deliver) -> None:
        info = job.info(outcome)
        if not isinstance(outcome, Written):
            deliver(EngineResult(job.request.id, error=outcome, info=info))
            return
        ticket = job.ticket
        answer = await self._translator.write(ticket.loaded.adapter, outcome.ids, stop=ticket.stops)
        deliver(engine_result(job.request.id, answer, info))

    def _key(self, model: str, *, deterministic: bool) -> ModelKey:
        name = "float32" if deterministic else self._config.dtype
        if name == "auto":
            name = "float32" if self._device.type == "cpu" else "bfloat16"
        return ModelKey(model, getattr(torch, name))

    async def _measure(self, key: ModelKey) -> int:
        folder = await self._resolver.folder(key.model)
        return await asyncio.to_thread(measure, folder, key)

    async def _load(self, key: ModelKey) -> LoadedModel:
        with self._metrics.model_load.time():
            files = await self._resolver.find(key.model)
            return await asyncio.to_thread(load_model, files, key, self._device, self._features)


def call_soon(loop: asyncio.AbstractEventLoop, function: Callable[..., object], *args: object) -> None:
    """Calls a function on a loop from another thread; nothing happens if the loop has ended meanwhile."""
    if not loop.is_closed():
        loop.call_soon_threadsafe(function, *args)


@asynccontextmanager
async def open_transformers_engine(
    config: EngineConfig, *, models: Registry | None = None, metrics: CollectorRegistry | None = None
) -> AsyncIterator[TransformersEngine]:
    """An engine that runs while this lasts. `models` is where `projects/...` names are looked up."""
    registry = CollectorRegistry() if metrics is None else metrics
    cache = ModelCache(config.model_cache, limit_bytes=config.model_cache_bytes)
    resolver = ModelResolver(models, roots=config.model_roots, cache=cache)
    engine = TransformersEngine(config, resolver, EngineMetrics(registry), open_feature_cache(config, registry))
    engine.start()
    try:
        yield engine
    finally:
        await asyncio.to_thread(engine.close)
