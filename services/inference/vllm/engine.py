"""The engine that runs models by vLLM: one vLLM engine per resident model, LoRAs in that of their base.

Event loop: finding models, one task per request. Codec threads: reading prompts and media, and ids into answers. vLLM
does the rest: batches, caches of prefixes and of media. Its order is the order of arrival, so requests with the same
media and the same beginning are sent one after another. An answer does not depend on who else is in the batch but for
the rounding of floating-point sums; where it must not at all, see `check_deterministic`.
"""

import asyncio
import itertools
import os
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Any, TypeVar

import torch
from prometheus_client import CollectorRegistry

from omnialign.errors import FailedPrecondition, Internal, OmnialignError
from omnialign.modeling.feature_cache import NO_CACHE, Cache
from omnialign.modeling.inputs import Piece
from services.inference.codec_pool import Translator
from services.inference.config import EngineConfig
from services.inference.engine import Deliver, EngineRequest, EngineResult, engine_result, fan_out, info_of
from services.inference.errors import EngineDied, engine_closed, queue_full
from services.inference.metrics import FINISH_OUTCOMES, EngineMetrics
from services.inference.models.adapter import load_model_adapter, open_feature_cache
from services.inference.models.download_cache import ModelCache
from services.inference.models.key import ModelKey, pick_device
from services.inference.models.residency import Residency, too_large
from services.inference.models.resolver import ModelFiles, ModelResolver, Registry
from services.inference.vllm.crash_quarantine import Suspects
from services.inference.vllm.lora import Loras
from services.inference.vllm.metrics import VllmMetrics
from services.inference.vllm.process import VllmModel, check_installed, size_in_bytes, start_vllm
from services.inference.vllm.requests import (
    Answer,
    MediaMissed,
    VllmPrompt,
    order_of,
    prompt_of,
    prompt_too_long,
    refused,
    sampling_of,
    stop_texts,
)

T = TypeVar("T")
TRIES = 3
WATCH_SECONDS = 1.0
"""How often an engine with requests is asked whether it lives."""


class VllmEngine:
    """Runs models of vLLM. Build it with `open_vllm_engine`."""

    def __init__(
        self, config: EngineConfig, resolver: ModelResolver, registry: CollectorRegistry, features: Cache = NO_CACHE
    ) -> None:
        self._config, self._resolver, self._features = config, resolver, features
        self._metrics = metrics = EngineMetrics(registry)
        self._vllm_metrics = VllmMetrics(registry)
        self._translator = Translator(config.codec_threads)
        self._loras = Loras()
        self._suspects = Suspects()
        self._ids = itertools.count()
        self._unfinished = 0
        self._closing: set[asyncio.Task[None]] = set()
        self._closed = False
        self.residency: Residency[VllmModel] = Residency(
            budget_bytes=config.model_budget_bytes + config.cache_budget_bytes,
            measure=self._measure,
            load=self._load,
            changed=metrics.resident,
            dropped=self._drop,
            tenure_seconds=config.tenure_seconds,
        )
        metrics.cache_budget_bytes.set(config.cache_budget_bytes)
        metrics.rows_running.set_function(lambda: min(self._unfinished, config.max_batch_rows))
        metrics.queue_depth.set_function(lambda: max(0, self._unfinished - config.max_batch_rows))

    async def close(self) -> None:
        """Ends vLLM's processes and the threads. Requests that are not done fail with Unavailable ENGINE_CLOSED."""
        self._closed = True
        self._translator.close()
        self.residency.drop_all()
        await asyncio.gather(*self._closing, return_exceptions=True)

    async def load(self, model: str) -> None:
        """Makes a model resident; a LoRA with its base."""
        async with self._use(model):
            pass

    async def unload(self, model: str) -> None:
        """Ends a model's process; a LoRA has none, and goes with its base. Raises FailedPrecondition MODEL_IN_USE."""
        await self.residency.unload(model)
        await asyncio.gather(*self._closing, return_exceptions=True)

    async def generate(
        self, requests: Sequence[EngineRequest], *, deterministic: bool = False
    ) -> AsyncGenerator[EngineResult, None]:
        """One result per request, as each finishes; see `Engine.generate`.

        `deterministic` needs vLLM's batch-invariant mode: without it raises FailedPrecondition
        DETERMINISM_UNSUPPORTED.
        """
        if deterministic:
            check_deterministic()
        self._check_queue(len(requests))
        async with aclosing(fan_out(requests, self._run)) as results:
            async for result in results:
                yield result

    async def log_probabilities(self, request: EngineRequest, answer: Sequence[Piece]) -> list[float]:
        """The log-probability of each token of an answer to a prompt, the end id included."""
        from vllm import SamplingParams

        params = SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=0, detokenize=False)
        async with self._use(request.model) as model:
            prompt = await self._translator.run(lambda: prompt_of(model.adapter, request))
            ids = model.adapter.encode_answer(answer, request.policy)
            prompt.fields["prompt_token_ids"] += ids

            async def scored() -> Any:
                whole, ended = await rendered(model, prompt), Answer(model.adapter, (), [])
                async for output in model.generate(whole, params, self._next_id()):
                    ended.take(output)
                return output.prompt_logprobs[-len(ids) :]

            places = await insisting(scored)
        return [place[token].logprob for place, token in zip(places, ids, strict=True)]

    async def prompt_ids(self, request: EngineRequest) -> list[int]:
        """The ids of a prompt as vLLM runs them, with every placeholder expanded."""
        async with self._use(request.model) as model:
            prompt = await self._translator.run(lambda: prompt_of(model.adapter, request))
            return list((await rendered(model, prompt, to_run=False))["prompt_token_ids"])

    def _check_queue(self, new: int) -> None:
        """Raises ResourceExhausted QUEUE_FULL or Unavailable ENGINE_CLOSED."""
        if self._closed:
            raise engine_closed()
        waiting = max(0, self._unfinished - self._config.max_batch_rows)
        if waiting + new > self._config.max_waiting:
            raise queue_full(waiting, new, self._config.max_waiting)

    async def _run(self, name: str, requests: Sequence[EngineRequest], deliver: Deliver) -> None:
        """Runs the requests of one model; tasks start, and ask vLLM, in the order that its caches like best."""
        self._unfinished += len(requests)
        left = len(requests)
        room = asyncio.Semaphore(2 * self._config.max_batch_rows)  # so that decoded media do not pile up

        async def run(model: VllmModel, request: EngineRequest) -> None:
            nonlocal left
            async with room:
                result = await self._result(model, request)
            left, self._unfinished = left - 1, self._unfinished - 1
            deliver(result)

        try:
            async with self._use(name) as model, asyncio.TaskGroup() as group:
                watch = group.create_task(self._watched(model))
                await asyncio.wait([group.create_task(run(model, r)) for r in sorted(requests, key=order_of)])
                watch.cancel()
        finally:
            self._unfinished -= left
            self._metrics.requests.labels("cancelled").inc(left)

    async def _watched(self, model: VllmModel) -> None:
        """Raises when an engine dies: what was sent to it while it died would wait for ever."""
        while not model.is_dead:  # noqa: ASYNC110  vLLM tells nobody
            await asyncio.sleep(WATCH_SECONDS)
        raise engine_closed() if self._closed else EngineDied(model.key.model)

    @asynccontextmanager
    async def _use(self, name: str) -> AsyncIterator[VllmModel]:
        """A model whose engine lives. One that dies meanwhile leaves residency, so that the next request starts it."""
        files = await self._resolver.find(name)
        key = self._key(files.base)
        await self._loras.admit(files, name=name, check_size=lambda rank: self._check_size(files, key, rank))
        while True:
            async with self.residency.use(key) as model:
                try:
                    if not model.is_dead and self._loras.fit(model, files, name=name):
                        yield await self._loras.put_on(model, files, name=name)
                        return
                finally:
                    if model.is_dead:
                        self.residency.forget(key, model)
            await self.residency.retire(key, model)

    async def _result(self, model: VllmModel, request: EngineRequest) -> EngineResult:
        """Runs one request. Raises EngineDied, which concerns all; what concerns this one alone is in its result."""
        from vllm.v1.engine.exceptions import EngineDeadError

        info = info_of(request)
        try:
            prompt = await self._translator.run(lambda: prompt_of(model.adapter, request))
            info = info_of(request, prompt.losses)

            async def answered() -> EngineResult:
                return await self._answered(model, request, await rendered(model, prompt), info)

            async with self._suspects.watch(model, request):
                return await insisting(answered)
        except EngineDeadError as error:
            self._metrics.requests.labels("error").inc()
            raise (engine_closed() if self._closed else EngineDied(request.model)) from error
        except OmnialignError as error:
            self._metrics.requests.labels("error").inc()
            return EngineResult(request.id, error=error, info=info)

    async def _answered(self, model: VllmModel, request: EngineRequest, prompt: Any, info: Any) -> EngineResult:
        """Writes an answer; `info` is filled on the way."""
        info.prompt_tokens = len(prompt["prompt_token_ids"])
        room = model.context_tokens - info.prompt_tokens
        if room < 1:
            raise prompt_too_long(request, info.prompt_tokens, model.context_tokens)
        info.sampling.max_new_tokens = min(request.sampling.max_new_tokens or room, room)
        answer, started = Answer(model.adapter, stop_texts(request), []), time.monotonic()
        await self._write(model, request, prompt, answer, info.sampling.max_new_tokens)
        info.completion_tokens, info.finish_reason = len(answer.ids), answer.finish_reason
        info.latency.FromNanoseconds(int((time.monotonic() - started) * 1e9))
        self._count(info)
        pieces = await self._translator.write(model.adapter, answer.ids, stop=answer.stops)
        return engine_result(request.id, pieces, info)

    async def _write(
        self, model: VllmModel, request: EngineRequest, prompt: Any, answer: Answer, max_new_tokens: int
    ) -> None:
        """Has vLLM write; leaving this early, by a stop text or cancelled, ends the request at vLLM's next step."""
        from vllm.exceptions import VLLMClientError

        try:
            params = sampling_of(request, model.adapter, max_new_tokens)
            async with aclosing(model.generate(prompt, params, self._next_id())) as outputs:
                async for output in outputs:
                    if answer.take(output):
                        return
        except VLLMClientError as error:
            raise refused(error) from error

    def _count(self, info: Any) -> None:
        self._metrics.tokens.labels("in").inc(info.prompt_tokens)
        self._metrics.tokens.labels("out").inc(info.completion_tokens)
        self._metrics.requests.labels(FINISH_OUTCOMES[info.finish_reason]).inc()
        self._metrics.generation.observe(info.latency.ToNanoseconds() / 1e9)

    def _next_id(self) -> str:
        return f"omnialign-{next(self._ids)}"

    def _key(self, model: str) -> ModelKey:
        name = self._config.dtype
        if name == "auto":
            name = "float32" if pick_device(self._config.device) == "cpu" else "bfloat16"
        return ModelKey(model, getattr(torch, name))

    async def _measure(self, key: ModelKey) -> int:
        """Bytes of weights and cache; every engine has a cache of its own. Raises ResourceExhausted MODEL_TOO_LARGE."""
        files = await self._resolver.find(key.model)
        return await asyncio.to_thread(self._check_size, files, key, self._loras.rank(key.model))

    def _check_size(self, files: ModelFiles, key: ModelKey, lora_rank: int) -> int:
        size_bytes = size_in_bytes(files.folder, key, lora_rank)
        if size_bytes > self._config.model_budget_bytes:
            raise too_large(key, size_bytes=size_bytes, budget_bytes=self._config.model_budget_bytes)
        return size_bytes + self._config.cache_budget_bytes

    async def _load(self, key: ModelKey) -> VllmModel:
        await asyncio.gather(*self._closing, return_exceptions=True)  # their memory is needed
        with self._metrics.model_load.time():
            folder = await self._resolver.folder(key.model)
            adapter = await asyncio.to_thread(load_model_adapter, folder, key.model, self._features)
            rank = self._loras.rank(key.model)
            try:
                model = await asyncio.to_thread(start_vllm, folder, key, adapter, self._config, rank)
            except FailedPrecondition:
                self._loras.withdraw(key.model)
                raise
        self._vllm_metrics.add(model)
        return model

    def _drop(self, model: VllmModel) -> None:
        """Ends a model's process in the background; the next load waits for it."""
        self._vllm_metrics.remove(model)
        task = asyncio.create_task(asyncio.to_thread(model.stop))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


async def insisting(work: Callable[[], Awaitable[T]]) -> T:
    """Does work again when vLLM has lost media on the way. Raises Internal GENERATION_FAILED if that goes on."""
    for _ in range(TRIES):
        with suppress(MediaMissed):
            return await work()
    raise Internal("vLLM loses the media of the prompt again and again.", reason="GENERATION_FAILED")


async def rendered(model: VllmModel, prompt: VllmPrompt, *, to_run: bool = True) -> Any:
    """A prompt as vLLM runs it, every placeholder expanded. Raises InvalidArgument REQUEST_REFUSED.

    vLLM takes media that it renders for sent; a prompt that is not `to_run` leaves no such trace.
    """
    from vllm.inputs import tokens_input
    from vllm.renderers.params import TokenizeParams

    if "multi_modal_data" not in prompt.fields:
        return tokens_input(prompt.fields["prompt_token_ids"])
    try:  # lengths are checked by the engine, in one way for all
        params = TokenizeParams(max_total_tokens=None)
        (found,) = await model.llm.renderer.render_cmpl_async([prompt.fields], params, skip_mm_cache=not to_run)
    except Exception as error:  # the processor of a model met what it does not take
        raise refused(error) from error
    return found


def check_deterministic() -> None:
    """Raises FailedPrecondition DETERMINISM_UNSUPPORTED where a batch decides the rounding of sums."""
    if os.environ.get("VLLM_BATCH_INVARIANT", "0") != "1":
        raise FailedPrecondition(
            "vLLM forms its batches by what else it runs, and they decide the last bits of every sum; ask without "
            "`deterministic`, or set VLLM_BATCH_INVARIANT=1 on a GPU, or use the transformers engine.",
            reason="DETERMINISM_UNSUPPORTED",
        )


@asynccontextmanager
async def open_vllm_engine(
    config: EngineConfig, *, models: Registry | None = None, metrics: CollectorRegistry | None = None
) -> AsyncIterator[VllmEngine]:
    """An engine that runs while this lasts. `models` is where `projects/...` names are looked up."""
    check_installed()
    registry = CollectorRegistry() if metrics is None else metrics
    cache = ModelCache(config.model_cache, limit_bytes=config.model_cache_bytes)
    resolver = ModelResolver(models, roots=config.model_roots, cache=cache)
    engine = VllmEngine(config, resolver, registry, open_feature_cache(config, registry))
    try:
        yield engine
    finally:
        await engine.close()
