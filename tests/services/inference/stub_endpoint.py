"""An OpenAI-compatible endpoint that plays what it is told, on loopback, and a clock that does not wait."""

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

Act = Callable[[web.Request], Awaitable[web.StreamResponse]]

STARTED_AT = 1_800_000_000.0


class QuickClock:
    """A clock on which sleeping takes no time: it notes how long, and goes on by that. Each look is a bit later."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.slept: list[float] = []

    def now(self) -> float:
        self.seconds += 1e-6
        return self.seconds

    def date(self) -> float:
        return STARTED_AT + self.seconds

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.seconds += seconds
        await asyncio.sleep(0)


@dataclass
class Stub:
    """What was asked, and what will be played; `default` answers once the acts have been played."""

    default: Act
    base_url: str = ""
    acts: deque[Act] = field(default_factory=deque)
    asked: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    running: int = 0
    most_running: int = 0
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)

    def model(self, name: str = "stub", *, adapter: str = "") -> str:
        return f"openai+{self.base_url}#{name}" + (f"?adapter={adapter}" if adapter else "")

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(json.loads(await request.read()))
        self.headers.append(dict(request.headers))
        self.arrived.set()
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            return await (self.acts.popleft() if self.acts else self.default)(request)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        finally:
            self.running -= 1

    async def list_models(self, request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": "stub"}]})


@asynccontextmanager
async def serve_stub(default: Act | None = None) -> AsyncIterator[Stub]:
    """An endpoint on a free port; its chats say the last words of the prompt."""
    stub = Stub(default or echo)
    app = web.Application(client_max_size=1 << 26)
    app.router.add_post("/v1/chat/completions", stub.handle)
    app.router.add_post("/v1/completions", stub.handle)
    app.router.add_get("/v1/models", stub.list_models)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    stub.base_url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    try:
        yield stub
    finally:
        await runner.cleanup()


def chat(text: str | None, *, finish_reason: str = "stop", **fields: Any) -> dict[str, Any]:
    """The body of a chat completion."""
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": finish_reason, **fields}
    return {"id": "1", "choices": [choice], "usage": {"prompt_tokens": 5, "completion_tokens": 2}}


async def echo(request: web.Request) -> web.Response:
    """Answers with the text of the last message."""
    content = json.loads(await request.read())["messages"][-1]["content"]
    text = content if isinstance(content, str) else " ".join(part.get("text", "") for part in content)
    return web.json_response(chat(text))


def obeying(*words: str) -> Act:
    """Answers with the JSON that the asked schema admits: these words as its texts, the last of each choice."""

    async def act(request: web.Request) -> web.Response:
        asked = json.loads(await request.read())["response_format"]["json_schema"]
        return web.json_response(chat(json.dumps(_filled(asked["schema"], iter(words)))))

    return act


def _filled(schema: dict[str, Any], words: Iterator[str]) -> Any:
    if schema["type"] == "object":
        return {name: _filled(inner, words) for name, inner in schema["properties"].items()}
    return schema["enum"][-1] if "enum" in schema else next(words, "")


def says(body: object, *, status: int = 200, **headers: str) -> Act:
    """Answers with JSON."""

    async def act(request: web.Request) -> web.Response:
        return web.json_response(body, status=status, headers={k.replace("_", "-"): v for k, v in headers.items()})

    return act


def fails(status: int, message: str = "no", *, code: object = None, **headers: str) -> Act:
    """Answers with an error in the words of the API."""
    return says({"error": {"message": message, "type": "x", "code": code}}, status=status, **headers)


def page(text: str = "<html><body>Welcome to the proxy</body></html>", *, status: int = 200) -> Act:
    """Answers with HTML."""

    async def act(request: web.Request) -> web.Response:
        return web.Response(text=text, status=status, content_type="text/html")

    return act


async def hang(request: web.Request) -> web.StreamResponse:
    """Never answers."""
    await asyncio.Event().wait()
    raise AssertionError


async def drop(request: web.Request) -> web.StreamResponse:
    """Breaks the connection in the middle of the body."""
    response = web.StreamResponse(headers={"Content-Length": "1000", "Content-Type": "application/json"})
    await response.prepare(request)
    await response.write(b'{"choices": [')
    assert request.transport is not None
    request.transport.abort()
    return response


async def refuse(request: web.Request) -> web.StreamResponse:
    """Breaks the connection before any answer."""
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


async def flood(request: web.Request) -> web.StreamResponse:
    """Sends white space for ever."""
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    await response.prepare(request)
    while True:
        await response.write(b" " * (1 << 16))
