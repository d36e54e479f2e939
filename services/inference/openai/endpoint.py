"""One OpenAI-compatible endpoint: its connections, its gate, and the patience with it, shared by all calls.

Keys of endpoints, from a file of the operator's. A key goes to its endpoint alone and into no message."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import openai

from omnialign.errors import InvalidArgument, OmnialignError
from services.inference.config import OpenAIConfig
from services.inference.model_uri import EndpointModel, base_url_of
from services.inference.openai.concurrency import Clock, ConcurrencyLimit, Gate
from services.inference.openai.errors import (
    MAX_ANSWER_BYTES,
    AnswerUnusable,
    RetryBudget,
    Source,
    Trouble,
    parse_answer,
    parse_retry_after,
    unavailable,
    understand,
)
from services.inference.openai.metrics import EndpointMetrics
from services.runtime.watched_file import WatchedFile

NO_KEY = "none"


class Keys:
    """The keys by endpoint; none at all without a file. The file is read again when it changes."""

    def __init__(self, path: Path | None) -> None:
        self._file = None if path is None else WatchedFile(path, parse_keys)

    def of(self, base_url: str) -> str:
        """The key of an endpoint; empty for one without."""
        return "" if self._file is None else self._file.current().get(base_url, "")


def parse_keys(text: str) -> dict[str, str]:
    """Keys by base URL, of lines `BASE_URL KEY`; empty lines and those that begin with # count for nothing.

    Raises InvalidArgument OPENAI_KEYS_INVALID with the number of the first line in another form.
    """
    keys = {}
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) != 2 or not words[1].isascii():
            raise _invalid(number)
        try:
            keys[base_url_of(words[0], model=words[0])] = words[1]
        except InvalidArgument:  # its message would repeat a line that may hold a key
            raise _invalid(number) from None
    return keys


def _invalid(number: int) -> InvalidArgument:
    return InvalidArgument(
        f"Line {number} of the file of keys is not BASE_URL KEY.",
        reason="OPENAI_KEYS_INVALID",
        metadata={"line": str(number)},
    )


@dataclass(frozen=True)
class Answered:
    """The object that an endpoint answered, and how long that try took, its body made and its answer received."""

    json: Mapping[str, Any]
    seconds: float


class Endpoint:
    """Asks one endpoint. For use on one event loop; `close` it there."""

    def __init__(
        self, base_url: str, config: OpenAIConfig, *, keys: Keys, clock: Clock, metrics: EndpointMetrics
    ) -> None:
        self.base_url = base_url
        self._config, self._keys, self._clock, self._metrics = config, keys, clock, metrics
        self._gate = Gate(ConcurrencyLimit(config.openai_concurrency), clock)
        self._client = _client(base_url, config)
        self._used_at = float("-inf")
        metrics.prepare(base_url)
        self._show()

    async def close(self) -> None:
        """Closes the connections."""
        await self._client.close()

    def budget(self) -> RetryBudget:
        """The retries of a new request."""
        return RetryBudget(self._config.openai_max_retries, self._config.openai_retry_seconds)

    async def ask(
        self, path: str, body: Callable[[], Awaitable[bytes]], *, model: EndpointModel, budget: RetryBudget
    ) -> Answered:
        """The answer to a request, tried again while its budget lasts; each try makes its body anew.

        Raises Unavailable ENDPOINT_UNAVAILABLE when the budget is spent, and what `body` raises, ENDPOINT_INVALID,
        ENDPOINT_REFUSED, ENDPOINT_REJECTED, MODEL_NOT_FOUND and PROMPT_TOO_LONG at once.
        """
        while True:
            found = await self._try(path, body, model, budget)
            if isinstance(found, Answered):
                return found
            self._metrics.retries.labels(self.base_url, found.kind).inc()
            wish = parse_retry_after(found.retry_after, date=self._clock.date())
            if wish:
                self._gate.pause(min(wish, self._config.openai_retry_seconds))
            pause = budget.pause(now=self._clock.now(), retry_after=wish)
            if pause is None:
                raise unavailable(model, found, retries=budget.retries)
            await self._clock.sleep(pause)

    def used(self) -> None:
        """Notes that an answer could be used: what fails now is not the endpoint as a whole."""
        self._used_at = self._clock.now()

    def was_used_since(self, moment: float) -> bool:
        """Whether an answer could be used later than at that time of the clock."""
        return self._used_at > moment

    async def has_model(self, model: EndpointModel) -> bool:
        """Whether the endpoint lists a model; an endpoint that lists none is taken at its word. Raises as `ask`."""
        try:
            asking = self._client.get("/models", cast_to=httpx2.Response, options=self._options())
            listing = await self._within_time(asking)
        except (openai.OpenAIError, httpx2.HTTPError, TimeoutError) as error:
            meaning = understand(error, self.source(model))
            if isinstance(meaning, Trouble):
                raise unavailable(model, meaning, retries=0) from None  # the library's error holds the request
            if meaning.reason == "MODEL_NOT_FOUND":  # there is no such list
                return True
            raise meaning from None
        entries = parse_answer(listing, self.source(model)).get("data")
        if not isinstance(entries, list):
            return True
        return any(isinstance(entry, dict) and entry.get("id") == model.name for entry in entries)

    async def _try(
        self, path: str, body: Callable[[], Awaitable[bytes]], model: EndpointModel, budget: RetryBudget
    ) -> Answered | Trouble:
        """Asks once, when there is a place."""
        began_in = await self._gate.enter()
        try:
            self._show()
            budget.tried_at = self._clock.now()
            content = await body()
            began = self._clock.now()
            found = await self._send(path, content, self.source(model))
            if isinstance(found, Trouble):
                if found.is_overload:
                    self._gate.overloaded(began=began_in)
                return found
            ended = self._clock.now()
            self._gate.succeeded(seconds=ended - began)
            self._metrics.seconds.labels(self.base_url).observe(ended - began)
            return Answered(found, ended - budget.tried_at)
        finally:
            self._gate.leave()
            self._show()

    async def _send(self, path: str, content: bytes, source: Source) -> Mapping[str, Any] | Trouble:
        sending = self._client.post(path, cast_to=httpx2.Response, content=content, options=self._options())
        try:
            return parse_answer(await self._within_time(sending), source)
        except (openai.OpenAIError, httpx2.HTTPError, TimeoutError) as error:
            meaning = understand(error, source)
            if isinstance(meaning, OmnialignError):
                raise meaning from None  # the library's error holds the request
            return meaning

    async def _within_time(self, sending: Awaitable[httpx2.Response]) -> httpx2.Response:
        """The whole response. The library bounds the time between two bytes, this the time of all of them."""
        async with asyncio.timeout(self._config.openai_request_seconds):
            return await sending

    def source(self, model: EndpointModel) -> Source:
        """Whom to quote, without the key."""
        return Source(model, self._keys.of(self.base_url))

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

    def _show(self) -> None:
        self._metrics.limit.labels(self.base_url).set(self._gate.limit)
        self._metrics.running.labels(self.base_url).set(self._gate.running)


def _client(base_url: str, config: OpenAIConfig) -> openai.AsyncOpenAI:
    """A client without retries of its own, and without redirects: the operator named this address and no other.

    Its connections are aiohttp's, which cost less than half of the processor time of the library's own.
    """
    transport = openai.DefaultAioHttpClient(
        timeout=httpx2.Timeout(config.openai_request_seconds, connect=config.openai_connect_seconds, pool=None),
        limits=httpx2.Limits(
            max_connections=config.openai_concurrency, max_keepalive_connections=config.openai_concurrency
        ),
        follow_redirects=False,
        event_hooks={"response": [_bound]},
    )
    return openai.AsyncOpenAI(api_key=NO_KEY, base_url=base_url, max_retries=0, http_client=transport)


async def _bound(response: httpx2.Response) -> None:
    """Bounds what is read of an answer. Raises AnswerUnusable for a packed one."""
    if response.headers.get("content-encoding", "identity") != "identity":
        raise AnswerUnusable("is packed, which was not asked for")
    if isinstance(response.stream, httpx2.AsyncByteStream):
        response.stream = _BoundedStream(response.stream)


class _BoundedStream(httpx2.AsyncByteStream):
    """A body that raises AnswerUnusable where it goes on for ever."""

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
        """Gives the connection back."""
        await self._inner.aclose()
