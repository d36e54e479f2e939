"""One OpenAI-compatible endpoint: its connections, its key, its concurrency and its retries, shared by all calls."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import openai

from omnialign.errors import InvalidArgument, OmnialignError
from omnialign.retry import RetryPolicy, RetryState
from services.inference.config import OpenAIConfig
from services.inference.model_uri import EndpointModel, base_url_of
from services.inference.openai.concurrency import AdaptiveLimit, Clock, ConcurrencyLimiter
from services.inference.openai.errors import (
    MAX_ANSWER_BYTES,
    AnswerUnusable,
    ErrorContext,
    TransientFailure,
    classify_failure,
    parse_answer,
    parse_retry_after,
    unavailable,
)
from services.inference.openai.metrics import EndpointMetrics
from services.runtime.watched_file import WatchedFile

NO_KEY = "none"


class ApiKeys:
    """The operator's file of keys, read again when it changes. A key goes to its endpoint only, and into no message."""

    def __init__(self, path: Path | None) -> None:
        self._file = None if path is None else WatchedFile(path, parse_keys)

    def of(self, base_url: str) -> str:
        """The key of an endpoint; empty if it has none."""
        return "" if self._file is None else self._file.current().get(base_url, "")


def parse_keys(text: str) -> dict[str, str]:
    """Keys by base URL, from lines `BASE_URL KEY`; empty lines and comments (#) are skipped.

    Raises InvalidArgument OPENAI_KEYS_INVALID with the number of the first malformed line.
    """
    keys = {}
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) != 2 or not words[1].isascii():
            raise _invalid_line(number)
        try:
            keys[base_url_of(words[0], model=words[0])] = words[1]
        except InvalidArgument:  # its message would repeat a line that may contain a key
            raise _invalid_line(number) from None
    return keys


def _invalid_line(number: int) -> InvalidArgument:
    return InvalidArgument(
        f"Line {number} of the keys file is not BASE_URL KEY.",
        reason="OPENAI_KEYS_INVALID",
        metadata={"line": str(number)},
    )


@dataclass
class Attempts:
    """The attempts of one request."""

    retries: RetryState
    attempted_at: float = float("-inf")
    """When the newest attempt began."""

    @property
    def failing_since(self) -> float:
        """When the endpoint began to fail, as far as a request that failed can tell."""
        return self.attempted_at if self.retries.failed_at is None else self.retries.failed_at


@dataclass(frozen=True)
class Answered:
    """The JSON object that an endpoint answered, and how long that attempt took, its body and its answer included."""

    json: Mapping[str, Any]
    seconds: float


def retry_policy(config: OpenAIConfig) -> RetryPolicy:
    """How a request to an endpoint is retried."""
    return RetryPolicy(
        base_seconds=0.5,
        cap_seconds=30.0,
        budget_seconds=config.openai_retry_seconds,
        max_attempts=config.openai_max_retries + 1,
    )


class Endpoint:
    """Asks one endpoint. For use on one event loop; `close` it there."""

    def __init__(
        self, base_url: str, config: OpenAIConfig, *, keys: ApiKeys, clock: Clock, metrics: EndpointMetrics
    ) -> None:
        self.base_url = base_url
        self._config, self._keys, self._clock, self._metrics = config, keys, clock, metrics
        self._limiter = ConcurrencyLimiter(AdaptiveLimit(config.openai_concurrency), clock)
        self._retry_policy = retry_policy(config)
        self._client = _client(base_url, config)
        self._useful_at = float("-inf")
        metrics.prepare(base_url)
        self._update_gauges()

    async def close(self) -> None:
        """Closes the connections."""
        await self._client.close()

    def attempts(self) -> Attempts:
        """The attempts of a new request, none so far."""
        return Attempts(RetryState(self._retry_policy, clock=self._clock.now))

    async def ask(
        self, path: str, body: Callable[[], Awaitable[bytes]], *, model: EndpointModel, attempts: Attempts
    ) -> Answered:
        """The answer to a request, which is retried after transient failures; each attempt makes its body anew.

        Raises Unavailable ENDPOINT_UNAVAILABLE when there may be no further attempt, and what `body` raises,
        ENDPOINT_INVALID, ENDPOINT_REFUSED, ENDPOINT_REJECTED, MODEL_NOT_FOUND and PROMPT_TOO_LONG at once.
        """
        while True:
            outcome = await self._attempt(path, body, model, attempts)
            if isinstance(outcome, Answered):
                return outcome
            self._metrics.retries.labels(self.base_url, outcome.kind).inc()
            retry_after = parse_retry_after(outcome.retry_after, date=self._clock.date())
            if retry_after:  # it concerns all requests to the endpoint, not only this one
                self._limiter.pause(min(retry_after, self._config.openai_retry_seconds))
            pause_seconds = attempts.retries.next_pause_seconds(retry_after_seconds=retry_after or 0.0)
            if pause_seconds is None:
                raise unavailable(model, outcome, retries=attempts.retries.num_failures - 1)
            await self._clock.sleep(pause_seconds)

    def mark_useful(self) -> None:
        """Notes that an answer could be used: failures from now on are not the endpoint's as a whole."""
        self._useful_at = self._clock.now()

    def was_useful_since(self, moment: float) -> bool:
        """Whether an answer could be used later than `moment` on the clock."""
        return self._useful_at > moment

    async def has_model(self, model: EndpointModel) -> bool:
        """Whether the endpoint lists a model. One that offers no list is assumed to have it. Raises as `ask`, once."""
        context = self.error_context(model)
        try:
            request = self._client.get("/models", cast_to=httpx2.Response, options=self._options())
            listing = await self._within_time(request)
        except (openai.OpenAIError, httpx2.HTTPError, TimeoutError) as error:
            meaning = classify_failure(error, context)
            if isinstance(meaning, TransientFailure):
                raise unavailable(model, meaning, retries=0) from None  # the library's error contains the request
            if meaning.reason == "MODEL_NOT_FOUND":  # it is the list that was not found
                return True
            raise meaning from None
        entries = parse_answer(listing, context).get("data")
        if not isinstance(entries, list):
            return True
        return any(isinstance(entry, dict) and entry.get("id") == model.name for entry in entries)

    def error_context(self, model: EndpointModel) -> ErrorContext:
        """Whom errors quote, and the key to leave out."""
        return ErrorContext(model, self._keys.of(self.base_url))

    async def _attempt(
        self, path: str, body: Callable[[], Awaitable[bytes]], model: EndpointModel, attempts: Attempts
    ) -> Answered | TransientFailure:
        """Asks once, as soon as there is a slot."""
        began_in_round = await self._limiter.acquire()
        try:
            self._update_gauges()
            # The body is made inside the slot, so that the encoded media of waiting requests do not pile up in memory.
            attempts.attempted_at = self._clock.now()
            content = await body()
            sent_at = self._clock.now()
            outcome = await self._send(path, content, self.error_context(model))
            if isinstance(outcome, TransientFailure):
                if outcome.is_overload:
                    self._limiter.overloaded(began=began_in_round)
                return outcome
            answered_at = self._clock.now()
            self._limiter.succeeded(seconds=answered_at - sent_at)
            self._metrics.seconds.labels(self.base_url).observe(answered_at - sent_at)
            return Answered(outcome, answered_at - attempts.attempted_at)
        finally:
            self._limiter.release()
            self._update_gauges()

    async def _send(self, path: str, content: bytes, context: ErrorContext) -> Mapping[str, Any] | TransientFailure:
        request = self._client.post(path, cast_to=httpx2.Response, content=content, options=self._options())
        try:
            return parse_answer(await self._within_time(request), context)
        except (openai.OpenAIError, httpx2.HTTPError, TimeoutError) as error:
            meaning = classify_failure(error, context)
            if isinstance(meaning, OmnialignError):
                raise meaning from None  # the library's error contains the request
            return meaning

    async def _within_time(self, request: Awaitable[httpx2.Response]) -> httpx2.Response:
        """The whole response. The library bounds the time between two bytes; this bounds the time of all of them."""
        async with asyncio.timeout(self._config.openai_request_seconds):
            return await request

    def _options(self) -> Any:
        """Headers of a request: the endpoint's own key, and nothing that the library finds in the environment."""
        key = self._keys.of(self.base_url)
        headers = {
            "Content-Type": "application/json",
            "Accept-Encoding": "identity",
            "Authorization": f"Bearer {key}" if key else openai.Omit(),
            "OpenAI-Organization": openai.Omit(),
            "OpenAI-Project": openai.Omit(),
        }
        return {"headers": headers}

    def _update_gauges(self) -> None:
        self._metrics.limit.labels(self.base_url).set(self._limiter.limit)
        self._metrics.running.labels(self.base_url).set(self._limiter.num_running)


def _client(base_url: str, config: OpenAIConfig) -> openai.AsyncOpenAI:
    """A client without retries, because `Endpoint.ask` is the one layer of retries, and without redirects, because the
    operator allowed this address and no other.

    Its connections are aiohttp's, which take less than half of the processor time of the library's own.
    """
    transport = openai.DefaultAioHttpClient(
        timeout=httpx2.Timeout(config.openai_request_seconds, connect=config.openai_connect_seconds, pool=None),
        limits=httpx2.Limits(
            max_connections=config.openai_concurrency, max_keepalive_connections=config.openai_concurrency
        ),
        follow_redirects=False,
        event_hooks={"response": [_bound_body]},
    )
    return openai.AsyncOpenAI(api_key=NO_KEY, base_url=base_url, max_retries=0, http_client=transport)


async def _bound_body(response: httpx2.Response) -> None:
    """Bounds what is read of an answer. Raises AnswerUnusable for a compressed one, whose size is unknown."""
    if response.headers.get("content-encoding", "identity") != "identity":
        raise AnswerUnusable("is compressed, which was not requested")
    if isinstance(response.stream, httpx2.AsyncByteStream):
        response.stream = _BoundedStream(response.stream)


class _BoundedStream(httpx2.AsyncByteStream):
    """A body that raises AnswerUnusable once it has more than `MAX_ANSWER_BYTES`."""

    def __init__(self, inner: httpx2.AsyncByteStream) -> None:
        self._inner = inner

    async def __aiter__(self) -> AsyncIterator[bytes]:
        count = 0
        async for chunk in self._inner:
            count += len(chunk)
            if count > MAX_ANSWER_BYTES:
                raise AnswerUnusable(f"has more than {MAX_ANSWER_BYTES} bytes")
            yield chunk

    async def aclose(self) -> None:
        """Returns the connection."""
        await self._inner.aclose()
