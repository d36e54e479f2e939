"""The engine that runs `transformers` models in this process.

The event loop finds models and runs one task per call. Codec threads encode prompts and decode answers. Worker threads
of the scheduler run the model. A call keeps its model in memory until its last result is delivered.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from prometheus_client import CollectorRegistry

from omnialign.errors import InvalidArgument, OmnialignError
from omnialign.modeling.adapters.features import check_joinable
from omnialign.modeling.feature_cache import NO_CACHE, Cache
from omnialign.modeling.inputs import MediaLoss, ModelInputs
from omnialign.modeling.reward_folder import check_use
from omnialign.v1 import generation_pb2
from services.inference.codec_pool import CodecPool
from services.inference.config import EngineConfig
from services.inference.engine import Deliver, Engine, EngineRequest, EngineResult, info_of, weighed_result
from services.inference.errors import prompt_too_long, schema_unsupported
from services.inference.metrics import EngineMetrics
from services.inference.models.key import ModelKey, open_feature_cache, pick_device
from services.inference.models.residency import Residency
from services.inference.models.resolver import ModelResolver, Registry
from services.inference.progress import Progress
from services.inference.stop_strings import stops_of
from services.inference.transformers.admission import Completion, Outcome, SequenceRequest, cache_bytes
from services.inference.transformers.loading import LoadedModel, load_model, measure
from services.inference.transformers.rewards import RewardPool
from services.inference.transformers.scheduler import Scheduler


@dataclass(frozen=True)
class Job:
    """A request as the caller made it and as the scheduler runs it."""

    request: EngineRequest
    sequence: SequenceRequest
    losses: tuple[MediaLoss, ...] = ()

    def info(self, outcome: Outcome) -> generation_pb2.GenerationInfo:
        """What the lineage keeps of the request."""
        info = info_of(self.request, self.losses)
        info.sampling.max_new_tokens = self.sequence.max_new_tokens
        info.prompt_tokens = len(self.sequence.ids)
        if isinstance(outcome, Completion):
            info.completion_tokens = len(outcome.ids)
            info.finish_reason = outcome.finish_reason  # type: ignore[assignment]
            info.latency.FromNanoseconds(int(outcome.seconds * 1e9))
        return info


class TransformersEngine(Engine):
    """Runs models of `transformers`. Open it with `open_transformers_engine`."""

    def __init__(
        self, config: EngineConfig, resolver: ModelResolver, metrics: EngineMetrics, features: Cache = NO_CACHE
    ) -> None:
        self._config, self._resolver, self._metrics, self._features = config, resolver, metrics, features
        self._device = pick_device(config.device)
        self._scheduler = Scheduler(config, metrics, on_cpu=self._device.type == "cpu")
        self._rewards = RewardPool(config, metrics)
        self._codecs = CodecPool(config.codec_threads)
        self.residency = Residency(
            budget_bytes=config.model_budget_bytes,
            measure=self._measure,
            load=self._load,
            on_change=metrics.resident,
            min_residency_seconds=config.tenure_seconds,
        )

    def start(self) -> None:
        """Starts the threads that run models."""
        self._scheduler.start()

    def close(self) -> None:
        """Ends the threads. Requests that are not finished fail with Unavailable ENGINE_CLOSED."""
        self._scheduler.close()
        self._rewards.close()
        self._codecs.close()

    async def load(self, model: str) -> None:
        """Makes a model resident."""
        async with self.residency.use(self._key(model, deterministic=False)):
            pass

    async def unload(self, model: str) -> None:
        """Frees a model's memory. Raises FailedPrecondition MODEL_IN_USE."""
        await self.residency.unload(model)

    async def run(
        self, model: str, requests: Sequence[EngineRequest], deliver: Deliver, *, deterministic: bool
    ) -> None:
        """Runs requests for one model: encodes their prompts, has the scheduler generate, decodes the answers.

        A reward model gives rewards to answers instead. Raises InvalidArgument MODEL_IS_A_REWARD_MODEL for one that is
        to write, MODEL_NOT_A_REWARD_MODEL for another one that is to give rewards.
        """
        async with self.residency.use(self._key(model, deterministic=deterministic)) as loaded:
            check_use(model, gives_rewards=loaded.gives_rewards, wants_rewards=requests[0].answer is not None)
            if loaded.gives_rewards:
                await self._reward_all(loaded, requests, deterministic, deliver)
                return
            if requests[0].choices:
                await self._weigh_all(loaded, requests, deterministic, deliver)
                return
            jobs = await self._encode_all(loaded, requests, deterministic, deliver)
            if jobs:
                await self._generate_all(jobs, deterministic, deliver)

    async def _encode_all(
        self, loaded: LoadedModel, requests: Sequence[EngineRequest], deterministic: bool, deliver: Deliver
    ) -> list[Job]:
        """A job for each request whose prompt can be read; the results of the others are delivered at once."""
        group = object() if deterministic else None
        # The samples of an item have one prompt, which is encoded once.
        prompts = {(request.turns, request.policy): request for request in requests}
        found = await asyncio.gather(*(self._codecs.encode(loaded.adapter, request) for request in prompts.values()))
        by_prompt = dict(zip(prompts, found, strict=True))
        encoded = [by_prompt[request.turns, request.policy] for request in requests]
        jobs = []
        for request, inputs in zip(requests, encoded, strict=True):
            try:
                jobs.append(self._job(loaded, request, inputs, group))
            except OmnialignError as error:
                deliver(EngineResult(request.id, error=error, info=info_of(request)))
        return jobs

    async def _reward_all(
        self, loaded: LoadedModel, requests: Sequence[EngineRequest], deterministic: bool, deliver: Deliver
    ) -> None:
        """Has a reward model give rewards to the answers of requests, and delivers their results."""
        encoded = await asyncio.gather(*(self._codecs.encode(loaded.adapter, request) for request in requests))
        rows: list[tuple[EngineRequest, ModelInputs]] = []
        for request, inputs in zip(requests, encoded, strict=True):
            if isinstance(inputs, ModelInputs) and len(inputs.ids) > loaded.context_tokens:
                context = loaded.context_tokens
                inputs = prompt_too_long(request.model, prompt_tokens=len(inputs.ids), context_tokens=context)
            if isinstance(inputs, ModelInputs):
                rows.append((request, inputs))
            else:
                deliver(EngineResult(request.id, error=inputs, info=info_of(request)))
        found = self._rewards.run(loaded, [inputs for _, inputs in rows], deterministic=deterministic)
        async for number, outcome in found:
            request, inputs = rows[number]
            info = info_of(request, inputs.losses)
            info.prompt_tokens = len(inputs.ids)
            if isinstance(outcome, OmnialignError):
                deliver(EngineResult(request.id, error=outcome, info=info))
            else:
                deliver(EngineResult(request.id, reward=outcome, info=info))

    async def _weigh_all(
        self, loaded: LoadedModel, requests: Sequence[EngineRequest], deterministic: bool, deliver: Deliver
    ) -> None:
        """Has a model weigh the choices of requests, and delivers their results.

        Each choice is a sequence whose prompt goes as far as all choices agree, and whose tokens after that are given.
        So it takes as many steps as a verdict has tokens, and runs as any other sequence does.
        """
        group = object() if deterministic else None
        encoded = await asyncio.gather(*(self._codecs.encode_choices(loaded.adapter, request) for request in requests))
        jobs: list[Job] = []
        weighed: dict[str, tuple[EngineRequest, dict[str, EngineResult | None]]] = {}  # by the id of each choice
        for number, (request, found) in enumerate(zip(requests, encoded, strict=True)):
            try:
                if isinstance(found, OmnialignError):
                    raise found
                names = [f"{number}/{choice}" for choice in range(len(found.tails))]
                jobs += [
                    self._job(loaded, replace(request, id=name, return_tokens=True), found.inputs, group, forced=tail)
                    for name, tail in zip(names, found.tails, strict=True)
                ]
                weighed |= dict.fromkeys(names, (request, dict.fromkeys(names)))
            except OmnialignError as error:
                deliver(EngineResult(request.id, error=error, info=info_of(request)))

        def collect(result: EngineResult) -> None:
            request, choices = weighed[result.id]
            choices[result.id] = result
            results = [choice for choice in choices.values() if choice is not None]
            if len(results) == len(choices):
                deliver(weighed_result(request, results))

        if jobs:
            await self._generate_all(jobs, deterministic, collect)

    def _job(
        self,
        loaded: LoadedModel,
        request: EngineRequest,
        inputs: ModelInputs | OmnialignError,
        group: object | None,
        *,
        forced: Sequence[int] = (),
    ) -> Job:
        """Raises whatever made the prompt unreadable, PROMPT_TOO_LONG, or JSON_SCHEMA_UNSUPPORTED."""
        if isinstance(inputs, OmnialignError):
            raise inputs
        if request.requires_schema:
            raise schema_unsupported(request.model, "runs on the transformers engine, which lets it write freely")
        sampling = request.sampling
        room = self._room(loaded, len(inputs.ids) + max(len(forced) - 1, 0), request.model)
        sequence = SequenceRequest(
            loaded=loaded,
            inputs=inputs,
            max_new_tokens=len(forced) or min(sampling.max_new_tokens or room, room),
            temperature=0.0 if forced else sampling.temperature,
            top_p=sampling.top_p,
            seed=request.seed,
            stops=() if forced else stops_of(sampling),
            deliver=lambda sequence, outcome: None,
            wants_log_probs=request.return_tokens,
            forced=forced,
            group=group,
        )
        return Job(request, sequence, inputs.losses)

    def _room(self, loaded: LoadedModel, prompt_tokens: int, model: str) -> int:
        """Tokens that may follow the prompt. Raises InvalidArgument PROMPT_TOO_LONG."""
        # A request must fit into the cache by itself, or it would wait forever.
        context_tokens = min(loaded.context_tokens, self._config.cache_budget_bytes // loaded.cache_bytes_per_token)
        if prompt_tokens >= context_tokens:
            raise prompt_too_long(model, prompt_tokens=prompt_tokens, context_tokens=context_tokens)
        return context_tokens - prompt_tokens

    async def _generate_all(self, jobs: Sequence[Job], deterministic: bool, deliver: Deliver) -> None:
        """Runs jobs on the scheduler and delivers their results; when cancelled, drops those that are not finished."""
        unfinished = {job.sequence: job for job in jobs}
        if deterministic:
            self._check_fits(list(unfinished))
        loop = asyncio.get_running_loop()
        outcomes: asyncio.Queue[tuple[SequenceRequest, Outcome]] = asyncio.Queue()
        for sequence in unfinished:  # outcomes come from worker threads and continue on the event loop
            sequence.deliver = lambda sequence, outcome: call_soon(loop, outcomes.put_nowait, (sequence, outcome))
        progress = {job.request.id: self._follow(job, loop) for job in jobs if job.request.on_progress is not None}
        self._scheduler.submit(list(unfinished))
        try:
            async with asyncio.TaskGroup() as group:
                for _ in jobs:
                    sequence, outcome = await outcomes.get()
                    job = unfinished.pop(sequence)
                    if job.request.id in progress:
                        progress[job.request.id].close()
                    group.create_task(self._finish(job, outcome, deliver))
        finally:
            self._scheduler.cancel(list(unfinished))
            for followed in progress.values():
                followed.close()

    def _follow(self, job: Job, loop: asyncio.AbstractEventLoop) -> Progress:
        """Has the worker that writes an answer tell what it has written."""
        progress = Progress(self._codecs, job.sequence.loaded.adapter, job.request)
        job.sequence.on_ids = lambda ids: call_soon(loop, progress.note, ids)
        return progress

    def _check_fits(self, sequences: Sequence[SequenceRequest]) -> None:
        """Raises InvalidArgument BATCH_TOO_LARGE for deterministic requests that cannot run as one batch."""
        check_joinable([sequence.inputs for sequence in sequences])
        size_bytes, budget_bytes = cache_bytes(sequences), self._config.cache_budget_bytes
        if size_bytes > budget_bytes:
            raise InvalidArgument(
                f"As one batch these {len(sequences)} requests take {size_bytes} bytes of cache, and the engine has "
                f"{budget_bytes}; send fewer items, lower max_new_tokens, or drop `deterministic`.",
                reason="BATCH_TOO_LARGE",
                metadata={"size_bytes": str(size_bytes), "budget_bytes": str(budget_bytes)},
            )

    async def _finish(self, job: Job, outcome: Outcome, deliver: Deliver) -> None:
        info = job.info(outcome)
        if not isinstance(outcome, Completion):
            deliver(EngineResult(job.request.id, error=outcome, info=info))
            return
        answer = await self._codecs.decode(job.sequence.loaded.adapter, outcome.ids, stop=job.sequence.stops)
        tokens = generation_pb2.GeneratedTokens(ids=outcome.ids, log_probs=outcome.log_probs)
        deliver(EngineResult.of(job.request.id, answer, info, tokens if job.request.return_tokens else None))

    def _key(self, model: str, *, deterministic: bool) -> ModelKey:
        return ModelKey.of(model, self._config, deterministic=deterministic)

    async def _measure(self, key: ModelKey) -> int:
        folder = await self._resolver.folder(key.model)
        return await asyncio.to_thread(measure, folder, key)

    async def _load(self, key: ModelKey) -> LoadedModel:
        with self._metrics.model_load.time():
            files = await self._resolver.find(key.model)
            return await asyncio.to_thread(load_model, files, key, self._device, self._features)


def call_soon(loop: asyncio.AbstractEventLoop, function: Callable[..., object], *args: object) -> None:
    """Calls a function on a loop from another thread; does nothing if the loop has been closed meanwhile."""
    if not loop.is_closed():
        loop.call_soon_threadsafe(function, *args)


@asynccontextmanager
async def open_transformers_engine(
    config: EngineConfig, *, models: Registry | None = None, metrics: CollectorRegistry | None = None
) -> AsyncIterator[TransformersEngine]:
    """An engine that runs while the context lasts. `models` is where `projects/...` names are looked up."""
    registry = CollectorRegistry() if metrics is None else metrics
    resolver = ModelResolver.of(config, models)
    engine = TransformersEngine(config, resolver, EngineMetrics(registry), open_feature_cache(config, registry))
    engine.start()
    try:
        yield engine
    finally:
        await asyncio.to_thread(engine.close)
