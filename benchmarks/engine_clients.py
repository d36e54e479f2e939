"""One of the two clients that `benchmarks.engine` compares, in a process of its own: prints what it measured as JSON.

`ours` is the critique client as its service uses it: items and media in, an engine over all calls, feedback or an
abstention out. `plain` is what a script does: an `openai.AsyncOpenAI`, a semaphore and a gather. Both send the same
conversations with the same settings, half of them with a picture.
"""

import argparse
import asyncio
import base64
import hashlib
import io
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openai
from PIL import Image

from omnialign.modeling.inputs import MediaBytes, Pieces, pieces
from omnialign.modeling.prompts import Rendered, render_critique
from omnialign.rubrics import rubric
from omnialign.v1 import content_pb2, critique_service_pb2, generation_pb2
from services.critique.servicer import Critic
from services.inference.config import EngineConfig
from services.inference.item_loop import ItemLoop
from services.inference.media import MediaClient
from services.inference.openai.engine import open_openai_engine

Item = critique_service_pb2.CritiqueItem
EDGE_PIXELS = 64
CHUNK_ITEMS = 64
CHUNKS_AT_ONCE = 4  # as a replica of the alignment service does by default
WARM_UP_ITEMS = 32
REQUEST_SECONDS = 600.0


class Pictures:
    """The media of the items, as a data service would hold them."""

    def __init__(self, media: Mapping[str, bytes]) -> None:
        self._media = media

    async def fetch_media(self, digests: Iterable[str]) -> Mapping[str, bytes]:
        """The bytes of pictures."""
        return {digest: self._media[digest] for digest in digests}

    async def upload_media(self, data: bytes, *, modality: int, mime_type: str = "") -> content_pb2.Media:
        """Raises: a critique makes no media."""
        raise AssertionError("a critique makes no media")


def make_items(count: int) -> tuple[list[Item], dict[str, bytes]]:
    """The items, the same ones in every run, and their pictures by digest."""
    random, media, items = np.random.default_rng(0), {}, []
    for index in range(count):
        item = Item(id=str(index), subtask="ti2t" if index % 2 else "t2t", seed=index)
        item.prompt.parts.add(text=f"What does picture {index} show, and how do you know? " * 4)
        if index % 2:
            data = picture(random)
            digest = hashlib.sha256(data).hexdigest()
            media[digest] = data
            item.prompt.parts.add(media=content_pb2.Media(modality=content_pb2.MODALITY_IMAGE, sha256=digest))
        item.response.parts.add(text=f"Noise, seen {index} times, and nothing that could be named. " * 4)
        items.append(item)
    return items, media


def picture(random: np.random.Generator) -> bytes:
    """A PNG file of noise."""
    buffer = io.BytesIO()
    Image.fromarray(random.integers(0, 256, (EDGE_PIXELS, EDGE_PIXELS, 3), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


async def ours(items: Sequence[Item], media: Mapping[str, bytes], settings: argparse.Namespace) -> dict[str, Any]:
    """Asks for feedback as the critique service does, in the chunks of a job."""
    config = EngineConfig(openai_endpoints=(settings.base_url,), openai_concurrency=settings.concurrency)
    sampling = generation_pb2.SamplingParams(max_new_tokens=settings.tokens)
    async with open_openai_engine(config) as engine:
        critic = Critic(ItemLoop(engine, MediaClient(Pictures(media)), max_new_tokens=settings.tokens))

        chunks_at_once = asyncio.Semaphore(CHUNKS_AT_ONCE)

        async def chunk(some: Sequence[Item]) -> list[critique_service_pb2.CritiqueResponse]:
            request = critique_service_pb2.CritiqueRequest(
                model=f"openai+{settings.base_url}#{settings.model}",
                sampling=sampling,
                items=some,
                answer_form=generation_pb2.ANSWER_FORM_SECTIONS,  # asks for the same as the other client
            )
            async with chunks_at_once:
                return [result async for result in critic.critique(request)]

        async def run(some: Sequence[Item]) -> list[critique_service_pb2.CritiqueResponse]:
            chunks = [some[i : i + CHUNK_ITEMS] for i in range(0, len(some), CHUNK_ITEMS)]
            return [result for results in await asyncio.gather(*map(chunk, chunks)) for result in results]

        await run(items[:WARM_UP_ITEMS])
        with_costs = Costs()
        results = await run(items)
        costs = with_costs.since()
    infos = [r.feedback.generation if r.HasField("feedback") else r.abstention.generation for r in results]
    latencies = [info.latency.ToNanoseconds() / 1e9 for info in infos]
    return costs | summary(latencies, errors=sum(r.HasField("error") for r in results))


async def plain(items: Sequence[Item], media: Mapping[str, bytes], settings: argparse.Namespace) -> dict[str, Any]:
    """Asks for feedback as a script would."""
    client = openai.AsyncOpenAI(base_url=settings.base_url, api_key="none", timeout=REQUEST_SECONDS)
    slots = asyncio.Semaphore(settings.concurrency)

    async def one(item: Item) -> float | None:
        async with slots:
            started = time.perf_counter()
            try:
                answer = await client.chat.completions.create(
                    model=settings.model,
                    messages=messages_of(item, media),
                    temperature=0.0,
                    seed=item.seed,
                    max_tokens=settings.tokens,
                )
                _ = answer.choices[0].message.content
            except openai.OpenAIError:
                return None
            return time.perf_counter() - started

    await asyncio.gather(*map(one, items[:WARM_UP_ITEMS]))
    with_costs = Costs()
    found = await asyncio.gather(*map(one, items))
    latencies = [seconds for seconds in found if seconds is not None]
    return with_costs.since() | summary(latencies, errors=len(found) - len(latencies))


def messages_of(item: Item, media: Mapping[str, bytes]) -> list[Any]:
    """The conversation of an item as messages."""
    rendered = render_critique(pieces(item.prompt, media), pieces(item.response, media), rubric(item.subtask))
    return messages_of_turns(rendered)


def messages_of_turns(rendered: Rendered) -> list[Any]:
    """A conversation as messages."""
    return [{"role": turn.role, "content": content_of(turn.pieces)} for turn in rendered.turns]


def content_of(some: Pieces) -> str | list[dict[str, Any]]:
    """What a turn says: a text, or parts where there is a picture."""
    text = [piece for piece in some if isinstance(piece, str)]
    return "".join(text) if len(text) == len(some) else [part(piece) for piece in some]


def part(piece: str | MediaBytes) -> dict[str, Any]:
    """A piece as a part of a message."""
    if isinstance(piece, str):
        return {"type": "text", "text": piece}
    text = base64.b64encode(piece.data).decode("ascii")
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{text}"}}


class Costs:
    """Costs from now on: wall time, CPU time, and the peak growth of the process."""

    def __init__(self) -> None:
        Path("/proc/self/clear_refs").write_text("5")  # the largest size is counted anew
        self._bytes = memory_bytes("VmRSS")
        self._started, self._processor = time.perf_counter(), time.process_time()

    def since(self) -> dict[str, float]:
        """The costs so far."""
        return {
            "seconds": time.perf_counter() - self._started,
            "processor_seconds": time.process_time() - self._processor,
            "grown_bytes": memory_bytes("VmHWM") - self._bytes,
            "largest_bytes": memory_bytes("VmHWM"),
        }


def memory_bytes(name: str) -> int:
    """A size of this process as the kernel counts it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def summary(latencies: Sequence[float], *, errors: int) -> dict[str, float]:
    """Latencies in seconds and the count of errors."""
    p50, p99 = np.percentile(latencies, [50, 99]) if latencies else (0.0, 0.0)
    return {"p50_seconds": float(p50), "p99_seconds": float(p99), "errors": errors}


def main() -> None:
    """Runs one client and prints its JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engine_clients", description=__doc__)
    parser.add_argument("client", choices=("ours", "plain"))
    parser.add_argument("--base-url", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--requests", type=int, required=True)
    parser.add_argument("--concurrency", type=int, required=True)
    parser.add_argument("--tokens", type=int, required=True)
    settings = parser.parse_args()
    items, media = make_items(settings.requests)
    found = asyncio.run({"ours": ours, "plain": plain}[settings.client](items, media, settings))
    print(json.dumps(found | {"requests": settings.requests}))


if __name__ == "__main__":
    main()
