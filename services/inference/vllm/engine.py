"""The engine that runs models by vLLM: one vLLM engine per resident model, which also runs the LoRAs of that model.

The event loop finds models and runs one task per request. Codec threads read prompts and media, and decode answers.
vLLM does the rest: batches, caches of prefixes and of media. It serves in order of arrival, so requests with the same
media and the same beginning are sent one after another. An answer does not depend on what else is in the batch, except
for the rounding of floating-point sums; if it must not at all, see `check_deterministic`.
"""

import asyncio
import itertools
import math
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Any, TypeVar

from prometheus_client import CollectorRegistry

from omnialign.errors import FailedPrecondition, Internal, OmnialignError
from omnialign.modeling.feature_cache import NO_CACHE, Cache
from omnialign.modeling.inputs import Piece
from omnialign.modeling.reward_folder import is_reward_model, writes_nothing
from omnialign.v1 import generation_pb2
from services.inference.codec_pool import CodecPool, split_choices
from services.inference.config import EngineConfig
from services.inference.engine import Deliver, Engine, EngineRequest, EngineResult, info_of
from services.inference.errors import engine_closed, prompt_too_long, queue_full, reward_unsupported
from services.inference.metrics import FINISH_OUTCOMES, EngineMetrics
from services.inference.models.key import ModelKey, load_model_adapter, open_feature_cache
from services.inference.models.residency import Residency, too_large
from services.inference.models.resolver import ModelFiles, ModelResolver, Registry
from services.inference.progress import Progress
from services.inference.stop_strings import stops_of
from services.inference.vllm.crash_quarantine import CrashSuspects
from services.inference.vllm.lora import LoraRegistry
from services.inference.vllm.metrics import VllmMetrics
from services.inference.vllm.process import EngineDied, VllmModel, check_installed, size_in_bytes, start_vllm
from services.inference.vllm.requests import Answer, MediaLost, VllmPrompt, order_of, prompt_of, rejected, sampling_of

T = TypeVar("T")
MAX_TRIES = 3
"""Times that a prompt is rendered and run, if vLLM loses its media on the way."""
POLL_SECONDS = 1.0
"""How often an engine with requests is checked for life."""


class VllmEngine(Engine):
    """Runs models of vLLM. Open it with `open_vllm_engine`."""

    def __init__(
        self, config: EngineConfig, resolver: ModelResolver, registry: CollectorRegistry, features: Cache = NO_CACHE
    ) -> None:
        self._config, self._resolver, self._features = config, resolver, features
        self._metrics = metrics = EngineMetrics(registry)
        self._vllm_metrics = VllmMetrics(registry)
        self._codecs = CodecPool(config.codec_threads)
        self._loras = LoraRegistry()
        self._suspects = CrashSuspects()
        self._ids = itertools.count()
        self._num_unfinished = 0
        self._stopping: set[asyncio.Task[None]] = set()
        self._closed = False
        self.residency: Residency[VllmModel] = Residency(
            budget_bytes=config.model_budget_bytes + config.cache_budget_bytes,
            measure=self._measure,
            load=self._load,
            on_change=metrics.resident,
            on_drop=self._stop_in_background,
            min_residency_seconds=config.tenure_seconds,
        )
        metrics.cache_budget_bytes.set(config.cache_budget_bytes)
        metrics.rows_running.set_function(lambda: min(self._num_unfinished, config.max_batch_rows))
        metrics.queue_depth.set_function(lambda: max(0, self._num_unfinished - config.max_batch_rows))

    async def close(self) -> None:
        """Ends vLLM's processes and the threads. Requests that are not finished fail with Unavailable ENGINE_CLOSED."""
        self._closed = True
        self._codecs.close()
        self.residency.drop_all()
        await asyncio.gather(*self._stopping, return_exceptions=True)

    async def load(self, model: str) -> None:
        """Makes a model resident; a LoRA with its base."""
        async with self._use(model):
            pass

    async def unload(self, model: str) -> None:
        """Ends a model's process; a LoRA has none, and leaves with its base. Raises FailedPrecondition MODEL_IN_USE."""
        await self.residency.unload(model)
        await asyncio.gather(*self._stopping, return_exceptions=True)

    async def run(
        self, model: str, requests: Sequence[EngineRequest], deliver: Deliver, *, deterministic: bool
    ) -> None:
        """Runs requests for one model; tasks start, and reach vLLM, in the order that suits its caches best.

        `deterministic` needs vLLM's batch-invariant mode; without it, raises FailedPrecondition
        DETERMINISM_UNSUPPORTED.
        """
        if deterministic:
            check_deterministic()
        if any(request.answer is not None for request in requests):
            raise reward_unsupported(model, "which this service would run by vLLM")
        self._check_queue(len(requests))
        self._num_unfinished += len(requests)
        num_left = len(requests)
        # vLLM queues without a bound. Requests beyond two full batches wait here, before their media are decoded.
        slots = asyncio.Semaphore(2 * self._config.max_batch_rows)

        async def run_one(vllm_model: VllmModel, request: EngineRequest) -> None:
            nonlocal num_left
            async with slots:
                result = await self._result(vllm_model, request)
            num_left, self._num_unfinished = num_left - 1, self._num_unfinished - 1
            deliver(result)

        try:
            async with self._use(model) as vllm_model, asyncio.TaskGroup() as group:
                watch = group.create_task(self._watch(vllm_model))
                ordered = sorted(requests, key=order_of)
                await asyncio.wait([group.create_task(run_one(vllm_model, request)) for request in ordered])
                watch.cancel()
        finally:
            self._num_unfinished -= num_left
            self._metrics.requests.labels("cancelled").inc(num_left)

    async def log_probabilities(self, request: EngineRequest, answer: Sequence[Piece]) -> list[float]:
        """The log-probability of each token of an answer to a prompt, the end id included."""
        async with self._use(request.model) as model:
            prompt = await self._codecs.run(lambda: prompt_of(model.adapter, request))
            ids = model.adapter.encode_answer(answer, request.policy)
            return await retry_lost_media(lambda: self._given_log_probs(model, prompt, ids))

    async def prompt_ids(self, request: EngineRequest) -> list[int]:
        """The ids of a prompt as vLLM runs them, with every placeholder expanded."""
        async with self._use(request.model) as model:
            prompt = await self._codecs.run(lambda: prompt_of(model.adapter, request))
            return list((await render(model, prompt, to_run=False))["prompt_token_ids"])

    def _check_queue(self, new: int) -> None:
        """Raises ResourceExhausted QUEUE_FULL or Unavailable ENGINE_CLOSED."""
        if self._closed:
            raise engine_closed()
        waiting = max(0, self._num_unfinished - self._config.max_batch_rows)
        if waiting + new > self._config.max_waiting:
            raise queue_full(waiting=waiting, new=new, bound=self._config.max_waiting)

    async def _watch(self, model: VllmModel) -> None:
        """Raises when an engine dies: a request that was sent to it while it died would wait forever."""
        while not model.is_dead:  # noqa: ASYNC110  vLLM notifies nobody
            await asyncio.sleep(POLL_SECONDS)
        raise engine_closed() if self._closed else EngineDied(model.key.model)

    @asynccontextmanager
    async def _use(self, name: str) -> AsyncIterator[VllmModel]:
        """A model whose engine is alive. One that dies meanwhile is evicted, so that the next request restarts it."""
        files = await self._resolver.find(name)
        if is_reward_model(files.folder):
            raise writes_nothing(name)
        key = ModelKey.of(files.base, self._config)
        await self._loras.register(files, name=name, check_size=lambda rank: self._check_size(files, key, rank))
        while True:
            async with self.residency.use(key) as model:
                try:
                    if not model.is_dead and self._loras.has_room(model, files, name=name):
                        yield await self._loras.attach(model, files, name=name)
                        return
                finally:
                    if model.is_dead:
                        self.residency.evict_broken(key, model)
            # It is dead, or has no room for the LoRA. It leaves once its last user has finished, and the next round
            # starts it again, with the room that is needed then.
            await self.residency.retire(key, model)

    async def _result(self, model: VllmModel, request: EngineRequest) -> EngineResult:
        """Runs one request. Raises EngineDied, which concerns all; an error of this one alone is in its result."""
        from vllm.v1.engine.exceptions import EngineDeadError

        info = info_of(request)
        try:
            prompt = await self._codecs.run(lambda: prompt_of(model.adapter, request))
            info = info_of(request, prompt.losses)

            async def attempt() -> EngineResult:
                if request.choices:
                    return await self._weigh(model, request, prompt, info)
                return await self._answer(model, request, await render(model, prompt), info)

            async with self._suspects.watch(model, request):
                return await retry_lost_media(attempt)
        except EngineDeadError as error:
            self._metrics.requests.labels("error").inc()
            raise (engine_closed() if self._closed else EngineDied(request.model)) from error
        except OmnialignError as error:
            self._metrics.requests.labels("error").inc()
            return EngineResult(request.id, error=error, info=info)

    async def _answer(self, model: VllmModel, request: EngineRequest, prompt: Any, info: Any) -> EngineResult:
        """Generates an answer; `info` is filled on the way."""
        from vllm.exceptions import VLLMClientError

        info.prompt_tokens = len(prompt["prompt_token_ids"])
        room = model.context_tokens - info.prompt_tokens
        if room < 1:
            raise prompt_too_long(request.model, prompt_tokens=info.prompt_tokens, context_tokens=model.context_tokens)
        info.sampling.max_new_tokens = min(request.sampling.max_new_tokens or room, room)
        answer, started = Answer(model.adapter, stops_of(request.sampling)), time.monotonic()
        progress = Progress(self._codecs, model.adapter, request)
        try:
            params = sampling_of(request, model.adapter, info.sampling.max_new_tokens)
            # Closing the outputs early, at a stop string or when cancelled, ends the request at vLLM's next step.
            async with aclosing(model.generate(prompt, params, self._next_id())) as outputs:
                async for output in outputs:
                    if answer.update(output):
                        break
                    progress.note(answer.ids)
        except VLLMClientError as error:
            raise rejected(error) from error
        finally:
            progress.close()
        info.completion_tokens, info.finish_reason = len(answer.ids), answer.finish_reason
        info.latency.FromNanoseconds(int((time.monotonic() - started) * 1e9))
        self._count(info)
        pieces = await self._codecs.decode(model.adapter, answer.ids, stop=answer.stops)
        tokens = generation_pb2.GeneratedTokens(ids=answer.ids, log_probs=answer.log_probs)
        return EngineResult.of(request.id, pieces, info, tokens if request.return_tokens else None)

    async def _weigh(self, model: VllmModel, request: EngineRequest, prompt: VllmPrompt, info: Any) -> EngineResult:
        """Weighs the choices of a request, one after the other: each is read as part of the prompt."""
        shared, tails = await self._codecs.run(lambda: split_choices(model.adapter, request.choices, request.policy))
        started, log_probs = time.monotonic(), []
        for tail in tails:
            found = await self._given_log_probs(model, prompt, [*shared, *tail])
            log_probs.append(math.fsum(found[len(shared) :]))
        info.finish_reason = generation_pb2.FINISH_REASON_END
        info.prompt_tokens = len(prompt.fields["prompt_token_ids"]) + len(shared)
        info.latency.FromNanoseconds(int((time.monotonic() - started) * 1e9))
        self._count(info)
        return EngineResult(request.id, choice_log_probs=tuple(log_probs), info=info)

    async def _given_log_probs(self, model: VllmModel, prompt: VllmPrompt, ids: Sequence[int]) -> list[float]:
        """The log-probability of each of some ids that follow a prompt. Raises InvalidArgument REQUEST_REFUSED."""
        from vllm import SamplingParams
        from vllm.exceptions import VLLMClientError

        params = SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=0, detokenize=False)
        fields = {**prompt.fields, "prompt_token_ids": [*prompt.fields["prompt_token_ids"], *ids]}
        rendered, ended = await render(model, VllmPrompt(fields)), Answer(model.adapter)
        try:
            async for output in model.generate(rendered, params, self._next_id()):
                ended.update(output)
        except VLLMClientError as error:
            raise rejected(error) from error
        by_position = output.prompt_logprobs[-len(ids) :]
        return [scores[token].logprob for scores, token in zip(by_position, ids, strict=True)]

    def _count(self, info: Any) -> None:
        self._metrics.tokens.labels("in").inc(info.prompt_tokens)
        self._metrics.tokens.labels("out").inc(info.completion_tokens)
        self._metrics.requests.labels(FINISH_OUTCOMES[info.finish_reason]).inc()
        self._metrics.generation.observe(info.latency.ToNanoseconds() / 1e9)

    def _next_id(self) -> str:
        return f"omnialign-{next(self._ids)}"

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
        await asyncio.gather(*self._stopping, return_exceptions=True)  # their memory is needed
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

    def _stop_in_background(self, model: VllmModel) -> None:
        """Ends a model's process; the next load waits for it."""
        self._vllm_metrics.remove(model)
        task = asyncio.create_task(asyncio.to_thread(model.stop))
        self._stopping.add(task)
        task.add_done_callback(self._stopping.discard)


async def retry_lost_media(work: Callable[[], Awaitable[T]]) -> T:
    """Repeats work while vLLM loses media on the way. Raises Internal GENERATION_FAILED after `MAX_TRIES`."""
    for _ in range(MAX_TRIES):
        with suppress(MediaLost):
            return await work()
    raise Internal("vLLM lost the media of the prompt repeatedly.", reason="GENERATION_FAILED")


async def render(model: VllmModel, prompt: VllmPrompt, *, to_run: bool = True) -> Any:
    """A prompt as vLLM runs it, with every placeholder expanded. Raises InvalidArgument REQUEST_REFUSED.

    vLLM assumes that media which it renders reach its other processes. A prompt that is not `to_run` skips the cache of
    media, so that it leaves no such assumption behind.
    """
    from vllm.inputs import tokens_input
    from vllm.renderers.params import TokenizeParams

    if "multi_modal_data" not in prompt.fields:
        return tokens_input(prompt.fields["prompt_token_ids"])
    try:  # lengths are checked by this engine, in one way for all prompts
        params = TokenizeParams(max_total_tokens=None)
        (found,) = await model.llm.renderer.render_cmpl_async([prompt.fields], params, skip_mm_cache=not to_run)
    except Exception as error:  # a model's processor met something that it does not take
        raise rejected(error) from error
    return found


def check_deterministic() -> None:
    """Raises FailedPrecondition DETERMINISM_UNSUPPORTED where the batch decides the rounding of sums."""
    if os.environ.get("VLLM_BATCH_INVARIANT", "0") != "1":
        raise FailedPrecondition(
            "vLLM forms batches of whatever it runs at the time, and the batch decides the last bits of every sum; "
            "drop `deterministic`, set VLLM_BATCH_INVARIANT=1 on a GPU, or use the transformers engine.",
            reason="DETERMINISM_UNSUPPORTED",
        )


@asynccontextmanager
async def open_vllm_engine(
    config: EngineConfig, *, models: Registry | None = None, metrics: CollectorRegistry | None = None
) -> AsyncIterator[VllmEngine]:
    """An engine that runs while the context lasts. `models` is where `projects/...` names are looked up."""
    check_installed()
    registry = CollectorRegistry() if metrics is None else metrics
    engine = VllmEngine(config, ModelResolver.of(config, models), registry, open_feature_cache(config, registry))
    try:
        yield engine
    finally:
        await engine.close()
