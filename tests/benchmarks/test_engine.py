"""The two clients of the engine benchmark ask for the same, and what they measured becomes a table."""

import argparse
import json

import pytest

from benchmarks import engine, engine_clients
from tests.services.inference.stub_endpoint import serve_stub


async def asked_by(client):
    """The conversations and settings that an endpoint saw, in one order."""
    items, media = engine_clients.make_items(6)
    async with serve_stub() as stub:
        settings = argparse.Namespace(base_url=stub.base_url, model="stub", concurrency=4, tokens=8)
        found = await getattr(engine_clients, client)(items, media, settings)
    assert found["errors"] == 0
    assert found["p99_seconds"] >= found["p50_seconds"] > 0
    return sorted(json.dumps(body, sort_keys=True) for body in stub.asked)


async def test_both_clients_send_the_same_requests():
    ours, plain = await asked_by("ours"), await asked_by("plain")
    assert ours == plain
    assert len(ours) == 12  # the warm-up asks too


def test_the_page_shows_both_clients_and_the_ratio():
    run = {"requests": 10, "seconds": 2.0, "p50_seconds": 0.1, "p99_seconds": 0.2, "processor_seconds": 1.0}
    run |= {"grown_bytes": 1 << 20, "largest_bytes": 1 << 21, "errors": 1}
    twice = run | {"seconds": 4.0}
    result = {
        "requests per run": 10,
        "requests at a time": 4,
        "runs of each client": 2,
        "ours": engine.figures([run, run]),
        "plain": engine.figures([twice, twice]),
        "requests per second, ours / plain": engine.spread([engine.rate(run) / engine.rate(twice)] * 2),
    }
    text = engine.section("stub", result)
    assert "| requests per second | 5 | 2.5 |" in text
    assert "| errors | 2 | 2 |" in text
    assert "ours / plain: 2 (" in text
    assert engine.figures([run])["memory grown (MiB)"] == pytest.approx(1)
