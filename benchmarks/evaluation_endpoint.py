"""The endpoint of `benchmarks.evaluation`: two models and a judge that answer after a fixed time, so many at once.

Like a server of models it makes whoever is too many wait. What it says depends on the request alone, and it counts the
requests.
"""

import argparse
import asyncio
import hashlib
import json

from aiohttp import web

JUDGE = "judge"
MODELS = ("first", "second")


def words(body: bytes) -> str:
    """What the endpoint says to a request: a rating, or a text of twelve words."""
    asked = json.loads(body)
    digest = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).digest()
    if asked["model"] == JUDGE:
        return json.dumps({"reason": f"It says {digest[:4].hex()}, as people do.", "rating": 1 + digest[0] % 10})
    return " ".join(f"word{number}" for number in digest[:12])


def application(*, seconds: float, at_once: int) -> web.Application:
    """Chats, the list of models, and under `/v1/asked` how many chats there were."""
    slots, asked = asyncio.Semaphore(at_once), 0

    async def chat(request: web.Request) -> web.Response:
        nonlocal asked
        body = await request.read()
        async with slots:
            asked += 1
            await asyncio.sleep(seconds)
        choice = {
            "index": 0,
            "finish_reason": "stop",
            "message": {"role": "assistant", "content": words(body)},
        }
        usage = {"prompt_tokens": 100, "completion_tokens": 40, "total_tokens": 140}
        return web.json_response({"id": "1", "object": "chat.completion", "choices": [choice], "usage": usage})

    async def models(request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": name} for name in (*MODELS, JUDGE)]})

    async def count(request: web.Request) -> web.Response:
        return web.json_response(asked)

    app = web.Application(client_max_size=1 << 24)
    app.add_routes([web.post("/v1/chat/completions", chat), web.get("/v1/models", models), web.get("/v1/asked", count)])
    return app


def main() -> None:
    """Serves until the process ends."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evaluation_endpoint", description=__doc__)
    parser.add_argument("--milliseconds", type=float, required=True)
    parser.add_argument("--at-once", type=int, required=True)
    parser.add_argument("--port", type=int, required=True)
    settings = parser.parse_args()
    app = application(seconds=settings.milliseconds / 1000, at_once=settings.at_once)
    web.run_app(app, host="127.0.0.1", port=settings.port, print=None, access_log=None)


if __name__ == "__main__":
    main()
