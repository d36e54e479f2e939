"""Asking an OpenAI-compatible engine in tests: an engine that is allowed one stub, and requests for it."""

from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

from prometheus_client import CollectorRegistry

from omnialign.modeling.inputs import Piece, Turn
from omnialign.v1 import generation_pb2
from services.inference.config import EngineConfig
from services.inference.engine import EngineRequest, EngineResult
from services.inference.openai.engine import OpenAIEngine, open_openai_engine
from tests.services.inference.stub_endpoint import QuickClock, Stub


@asynccontextmanager
async def opened(
    stub: Stub, *, registry: CollectorRegistry | None = None, clock: QuickClock | None = None, **settings: Any
) -> AsyncIterator[OpenAIEngine]:
    """An engine that may ask the stub, on a clock that does not wait."""
    config = EngineConfig(**{"openai_endpoints": (stub.base_url,), "openai_retry_seconds": 60.0, **settings})
    async with open_openai_engine(config, metrics=registry, clock=clock or QuickClock()) as engine:
        yield engine


def request(model: str, *pieces: Piece, name: str = "0", seed: int = 7, **sampling: Any) -> EngineRequest:
    """One turn of a person's."""
    params = generation_pb2.SamplingParams(**sampling)
    return EngineRequest(name, model, (Turn("user", pieces),), params, seed=seed)


async def ask(engine: OpenAIEngine, *requests: EngineRequest) -> list[EngineResult]:
    """The results, in the order of the requests."""
    async with aclosing(engine.generate(requests)) as results:
        found = {result.id: result async for result in results}
    return [found[request.id] for request in requests]


async def one(stub: Stub, *pieces: Piece, **sampling: Any) -> EngineResult:
    """The result of one request to the stub."""
    async with opened(stub) as engine:
        (result,) = await ask(engine, request(stub.model(), *pieces, **sampling))
    return result
