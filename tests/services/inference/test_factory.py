"""One engine out of two."""

import asyncio
from contextlib import aclosing
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from omnialign.errors import Unavailable
from omnialign.v1 import generation_pb2
from services.inference.engine import Engine, EngineRequest, EngineResult
from services.inference.factory import RoutingEngine
from services.inference.metrics import PolicyMetrics
from services.inference.models.resolver import ModelResolver
from services.inference.policies.store import PolicyStore

REMOTE = "openai+http://h/v1#m"
LOCAL = "file:///models/m"


class Named(Engine):
    """An engine that answers with its name."""

    def __init__(self, name, *, error=None):
        self.name, self.error, self.loaded, self.unloaded, self.closed = name, error, [], [], False

    async def run(self, model, requests, deliver, *, deterministic):
        try:
            if self.error is not None:
                raise self.error
            for request in requests:
                deliver(EngineResult(request.id, pieces=(self.name, str(deterministic))))
                await asyncio.sleep(0)
        finally:
            self.closed = True

    async def load(self, model):
        self.loaded.append(model)

    async def unload(self, model):
        self.unloaded.append(model)


def routing(local, endpoints):
    policies = PolicyStore(Path("unused"), local, ModelResolver(None), PolicyMetrics(CollectorRegistry()))
    return RoutingEngine(local, endpoints, policies)


def requests(*models):
    return [EngineRequest(str(i), m, (), generation_pb2.SamplingParams()) for i, m in enumerate(models)]


async def test_requests_go_where_their_models_are():
    engine = routing(Named("local"), Named("endpoints"))
    found = {r.id: r.pieces async for r in engine.generate(requests(LOCAL, REMOTE, LOCAL), deterministic=True)}
    assert found == {"0": ("local", "True"), "1": ("endpoints", "True"), "2": ("local", "True")}


async def test_loading_goes_where_the_model_is():
    local, endpoints = Named("local"), Named("endpoints")
    engine = routing(local, endpoints)
    await engine.load(REMOTE)
    await engine.unload(LOCAL)
    assert (endpoints.loaded, local.loaded, local.unloaded, endpoints.unloaded) == ([REMOTE], [], [LOCAL], [])


async def test_the_error_of_one_engine_ends_the_call():
    engine = routing(Named("local"), Named("endpoints", error=Unavailable("gone")))
    with pytest.raises(Unavailable):
        _ = [r async for r in engine.generate(requests(REMOTE))]


async def test_closing_the_results_closes_the_engines():
    local = Named("local")
    results = routing(local, Named("endpoints")).generate(requests(LOCAL, LOCAL))
    async with aclosing(results):
        await anext(results)
    assert local.closed
