"""The endpoints that `benchmarks.engine` calls: a stub that costs next to nothing, and a real `vllm serve`."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

VLLM_PYTHON = Path(".venv-vllm/bin/python")
MODEL = "bench"
START_SECONDS = 300
THINKING_SECONDS = 0.02
ANSWER = (
    "##Critique: The answer names nothing. ##Refinement: Say what the picture shows. "
    "##Scores: prompt_following 1, objective_rules 2, clarity 3, information_richness 0, safety 3"
)
SERVE = ("-m", "vllm.entrypoints.openai.api_server", "--host", "127.0.0.1", "--served-model-name", MODEL)
CPU = ("--dtype", "float32", "--enforce-eager", "--skip-mm-profiling", "--kv-cache-memory-bytes", str(256 << 20))
BUILD = "import sys; from pathlib import Path; from tests.model_factory.families import FAMILIES; "
BUILD += "FAMILIES['qwen2_5_vl'].build(Path(sys.argv[1]))"


@contextmanager
def stub() -> Iterator[str]:
    """The address of a server that answers every chat after 20 ms with the same feedback."""
    with serving((sys.executable, "-m", "benchmarks.engine_endpoints"), {}) as url:
        yield url


@contextmanager
def vllm(folder: Path) -> Iterator[str]:
    """The address of a `vllm serve` of a tiny random model that reads images, on the processor."""
    environment = {"VLLM_LOGGING_LEVEL": "WARNING", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
    subprocess.run((str(VLLM_PYTHON), "-c", BUILD, str(folder)), check=True)
    command = (str(VLLM_PYTHON), *SERVE, *CPU, "--model", str(folder))
    with serving(command, environment, output=subprocess.DEVNULL) as url:
        yield url


@contextmanager
def serving(command: Sequence[str], environment: Mapping[str, str], *, output: int | None = None) -> Iterator[str]:
    """Runs a server until the end of the block; it is ready once it lists its models."""
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        port = place.getsockname()[1]
    process = subprocess.Popen(
        (*command, "--port", str(port)),
        env={**environment, **os.environ},
        stdout=output,
        stderr=output,
        start_new_session=True,
    )
    try:
        url = f"http://127.0.0.1:{port}/v1"
        _wait(f"{url}/models", process)
        yield url
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)


def _wait(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except (urllib.error.URLError, ConnectionError):
            if process.poll() is not None or time.monotonic() > deadline:
                raise
            time.sleep(0.2)  # it announces nothing


def serve_stub(port: int) -> None:
    """Serves the stub until the process ends."""
    from aiohttp import web

    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": ANSWER}}
    usage = {"prompt_tokens": 100, "completion_tokens": 40, "total_tokens": 140}
    answer = {"id": "1", "object": "chat.completion", "created": 1, "model": MODEL, "choices": [choice], "usage": usage}

    async def chat(request: web.Request) -> web.Response:
        await request.read()
        await asyncio.sleep(THINKING_SECONDS)
        return web.json_response(answer)

    async def models(request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": MODEL}]})

    app = web.Application()
    app.add_routes([web.post("/v1/chat/completions", chat), web.get("/v1/models", models)])
    web.run_app(app, host="127.0.0.1", port=port, print=None, access_log=None)


if __name__ == "__main__":
    serve_stub(int(sys.argv[2]))
