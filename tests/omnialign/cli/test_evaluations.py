import asyncio
import json
import random
import threading
from concurrent.futures import Future
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks.null_services import Behaviour, add_models
from examples.tinyworld.language import random_task
from omnialign.cli.main import app
from omnialign.client import Client
from omnialign.content import content
from omnialign.v1 import record_pb2
from services.data import __main__ as data
from services.data.config import DataConfig
from services.evaluation import __main__ as evaluation
from services.evaluation.__main__ import EvaluationConfig
from services.runtime.config import ServerConfig
from services.runtime.server import Server


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """A server with the data service, evaluations, and null models, which lives no longer than this module's tests: job
    kinds of one process share their workflow database."""
    ready, stop, loop = Future(), asyncio.Event(), asyncio.new_event_loop()
    root = tmp_path_factory.mktemp("evaluations")

    async def serve():
        server = Server(ServerConfig(), name="test")
        found = server.bind()
        add_models(server, Behaviour())
        config = EvaluationConfig(
            root=root / "evaluation",
            data_address=found,
            refinement_address=found,
            judge_address=found,
            queue_polling_seconds=0.1,
        )
        async with data.wire(server, DataConfig(root=root / "data")), evaluation.wire(server, config):
            await server.start()
            server.set_serving()
            ready.set_result(found)
            await stop.wait()
            await server.stop(0)

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    try:
        yield ready.result(timeout=30)
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(timeout=30)
        loop.close()


@pytest.fixture
def run(address, monkeypatch):
    """Runs the command with this server as its own."""
    monkeypatch.setenv("OMNIALIGN_ADDRESS", address)
    return lambda *words: CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture(scope="module")
def items(address):
    """A dataset whose answers the tiny world's checker can check."""
    draw = random.Random(5)
    with Client(address) as client:
        dataset = client.create_dataset("questions")
        client.append_records(
            dataset.name,
            [
                record_pb2.Record(
                    id=f"q-{i}", subtask="t2t", split="test", prompt=content(random_task(draw, "t2t").text)
                )
                for i in range(4)
            ],
        )
        client.commit_version(dataset.name)
    return "questions"


def options(items):
    return ("--benchmark", "checkers", "--dataset", items, "--checker", "tinyworld", "--seed", "3")


def test_an_evaluation_is_checked_without_creating_anything(run, items):
    result = run("eval", "run", "--id", "unborn", "--model", "file:///one", *options(items), "--validate-only")
    assert result.exit_code == 0, result.output
    assert "answers to write\t4" in result.stdout
    assert "note: checkers has only 4 items" in result.stdout
    assert "Nothing was created" in result.stdout
    assert run("eval", "show", "unborn").exit_code == 1


def test_an_evaluation_is_run_watched_shown_and_reported(run, items, tmp_path):
    result = run(
        "eval", "run", "--id", "whole", "--model", "file:///one", "--model", "file:///two", *options(items), "--watch"
    )
    assert result.exit_code == 0, result.output
    rows = [line.split("\t") for line in result.stdout.splitlines() if line.startswith("checkers\t")]
    assert ["checkers", "file:///one", "–", "correct", "all", "0.000", "0.000 to 0.000", "4", "0", "0"] in rows
    assert "correct" in run("eval", "show", "whole").stdout
    reported = run("eval", "report", "whole", "--out", tmp_path / "report")
    assert reported.exit_code == 0, reported.output
    assert json.loads((tmp_path / "report" / "report.json").read_text())["models"] == ["file:///one", "file:///two"]
    assert (tmp_path / "report" / "report.html").read_text().startswith("<!doctype html>")
    listed = [json.loads(line) for line in run("eval", "list", "--json").stdout.splitlines()]
    assert "projects/default/evaluations/whole" in [found["name"] for found in listed]
    compared = run("eval", "compare", "whole", "--baseline-model", "file:///one", "--out", tmp_path / "beside")
    assert compared.exit_code == 0, compared.output
    assert "checkers\t–\tcorrect\tall\t4\t0.000\t0.000\t+0.000 to +0.000\t1.0000" in compared.stdout
    assert json.loads((tmp_path / "beside" / "compare.json").read_text())["model"] == "file:///two"
    assert "<h1>file:///two against file:///one</h1>" in (tmp_path / "beside" / "compare.html").read_text()


def test_a_second_run_reuses_the_answers_unless_it_is_to_be_fresh(run, items):
    model = ("--model", "openai+http://host/v1#writer")
    shown = []
    for name, *more in (("one",), ("again",), ("anew", "--fresh")):
        result = run("eval", "run", "--id", name, *model, *options(items), *more, "--watch")
        assert result.exit_code == 0, result.output
        shown.append(run("eval", "show", name).stdout)
    line = "reused from earlier evaluations: 4 answers, 0 judgements"
    assert [line in text for text in shown] == [False, True, False]


def test_the_pre_flight_says_which_model_instructs_a_generator(run, address):
    with Client(address) as client:
        record = record_pb2.Record(id="v", subtask="t2ti", split="test", prompt=content("Explain."))
        record.benchmark_item.selection_shares.update({"t": 0.5, "ti": 0.5})
        dataset = client.create_dataset("votes")
        client.append_records(dataset.name, [record])
        client.commit_version(dataset.name)
    model, painter = "openai+http://host/v1#writer", "openai+http://host/v1#painter?adapter=file:///painter"
    asked = ("eval", "run", "--model", model, "--benchmark", "selection", "--dataset", "votes", "--validate-only")
    result = run(*asked, "--generator", f"image={painter}")
    assert result.exit_code == 0, result.output
    assert f"image of {model}\tagents mode: made by {painter}" in result.stdout
    refused = run(*asked)
    assert refused.exit_code == 1
    assert "--generator image=MODEL" in refused.stderr
    assert "is not of the form image=MODEL" in run(*asked, "--generator", painter.partition("?")[0]).stderr


def test_an_unknown_key_within_a_benchmark_is_named_with_its_place(run, tmp_path):
    path: Path = tmp_path / "evaluation.json"
    path.write_text(
        json.dumps({"models": ["file:///one"], "benchmarks": [{"name": "checkers", "datset": "questions"}]})
    )
    result = run("eval", "run", path)
    assert result.exit_code == 1
    assert "benchmarks[0].datset: is not a setting; did you mean 'dataset'?" in result.stderr
