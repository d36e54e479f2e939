"""The two clients of the evaluation benchmark ask for the same, and what they measured becomes a page."""

import argparse
import json
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from benchmarks import evaluation, evaluation_clients
from benchmarks.evaluation_endpoint import JUDGE, MODELS, application, words
from omnialign.modeling.answers_json import read_rating
from omnialign.v1 import generation_pb2
from services.evaluation.benchmarks.amu import Understanding

ITEMS = 4


@asynccontextmanager
async def served():
    """The address of the endpoint, and the bodies of what it was asked."""
    asked = []

    @web.middleware
    async def note(request, handler):
        if request.method == "POST":
            asked.append(json.dumps(json.loads(await request.read()), sort_keys=True))
        return await handler(request)

    app = application(seconds=0.001, at_once=2)
    app.middlewares.append(note)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1", asked
    finally:
        await runner.cleanup()


@pytest.mark.slow  # it starts the stack of a laptop
async def test_both_clients_send_the_same_requests_and_come_to_the_same(monkeypatch):
    for name in ("OMNIALIGN_ENGINE_OPENAI_ENDPOINTS", "OMNIALIGN_ENGINE_OPENAI_CONCURRENCY"):
        monkeypatch.setenv(name, "")  # restored in the end
    found, bodies = {}, {}
    for client in ("ours", "plain"):
        async with served() as (url, asked):
            settings = argparse.Namespace(base_url=url, at_once=4)
            items = evaluation_clients.make_items(ITEMS)
            found[client] = await getattr(evaluation_clients, client)(items, settings) | {"requests": len(asked)}
            bodies[client] = sorted(asked)
    assert bodies["ours"] == bodies["plain"]
    evaluation.check(found, items=ITEMS)


async def test_the_plain_client_has_every_answer_of_every_model_rated():
    async with served() as (url, asked):
        settings = argparse.Namespace(base_url=url, at_once=4)
        found = await evaluation_clients.plain(evaluation_clients.make_items(ITEMS), settings)
    models = [json.loads(body)["model"] for body in asked]
    assert [models.count(name) for name in (*MODELS, JUDGE)] == [ITEMS, ITEMS, 2 * ITEMS]
    assert all(1 <= mean <= Understanding.top for mean in found["means"].values())


def test_what_the_endpoint_says_depends_on_the_request_alone():
    body = json.dumps({"model": JUDGE, "messages": [], "seed": 1}).encode()
    again = json.dumps({"seed": 1, "messages": [], "model": JUDGE}).encode()
    assert words(body) == words(again)
    assert words(body) != words(json.dumps({"model": JUDGE, "messages": [], "seed": 2}).encode())
    assert 1 <= read_rating(words(body)).score <= Understanding.top
    assert generation_pb2.ANSWER_FORM_JSON == evaluation_clients.JSON


def run_of(**change):
    run = {"seconds": 10.0, "processor": 2.0, "means": dict.fromkeys(MODELS, 5.0), "requests": 16, "same": True}
    return run | {"again_seconds": 0.4, "again_processor": 0.1, "again_reused": 16} | change


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"requests": 15}, "requests"),
        ({"means": dict.fromkeys(MODELS, 5.1)}, "means"),
        ({"again_reused": 15}, "reused"),
        ({"same": False}, "scores of the second run"),
    ],
)
def test_clients_that_did_different_work_are_not_compared(change, named):
    evaluation.check({"ours": run_of(), "plain": run_of()}, items=ITEMS)
    with pytest.raises(RuntimeError, match=named):
        evaluation.check({"ours": run_of(**change), "plain": run_of()}, items=ITEMS)


def test_the_page_shows_both_clients_the_ratio_and_the_second_run(monkeypatch):
    runs = {"ours": run_of(seconds=12.5), "plain": run_of()}
    monkeypatch.setattr(evaluation, "run_client", lambda client, url, **counts: runs[client])
    found = evaluation.compare("", items=ITEMS, at_once=2, milliseconds=100.0, repeats=2)
    machine = {"cores": 2, "cpu": "x", "memory_gib": 1, "load_1min": 0.0, "python": "3", "packages": {}}
    text = evaluation.page(machine, found)
    assert "| seconds | 12.5 | 10 |" in text
    assert "ours / plain: 0.8 (from 0.8 to 0.8)" in text
    assert "3.2 % of the first" in text
    assert "5.0 % of its processor time" in text
    assert "at least 0.8 seconds" in text
