import asyncio
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import urllib.request

import pytest

from omnialign.cli import embedded as commands
from omnialign.cli.output import Output
from omnialign.cli.state import read_state
from omnialign.client import AsyncClient
from omnialign.errors import FailedPrecondition, NotFound
from services.embedded import EmbeddedStack, embedded, engine_config
from services.pipeline import workflow_engine

START = "from omnialign.cli.main import main; main()"


@pytest.fixture
async def stack(tmp_path):
    async with embedded(tmp_path) as running:
        yield running


async def test_all_services_answer_on_one_port(stack):
    async with AsyncClient(stack.address) as client:
        assert [dataset async for dataset in client.list_datasets()] == []
        assert [job async for job in client.list_training_jobs()] == []
        assert [job async for job in client.list_alignment_jobs()] == []
        assert [evaluation async for evaluation in client.list_evaluations()] == []
        assert [campaign async for campaign in client.list_campaigns()] == []
        with pytest.raises(NotFound):
            await client.get_model_version("projects/default/models/absent/versions/1")


async def test_the_running_stack_is_found_by_its_root_and_forgotten_at_the_end(tmp_path):
    async with embedded(tmp_path) as running:
        state = read_state(tmp_path)
        assert state is not None
        assert (state.address, state.process_id) == (running.address, os.getpid())
        assert running.address.startswith("127.0.0.1:")
    assert read_state(tmp_path) is None


async def test_a_second_stack_on_the_same_root_is_refused(stack, tmp_path):
    with pytest.raises(FailedPrecondition, match=f"process {os.getpid()} at {stack.address}") as caught:
        async with embedded(tmp_path):
            pass
    assert caught.value.reason == "ROOT_IN_USE"
    assert read_state(tmp_path) is not None  # the refused one did not touch the owner's file


async def test_a_root_can_be_used_again_and_keeps_its_data(tmp_path):
    async with embedded(tmp_path) as first, AsyncClient(first.address) as client:
        await client.create_dataset("kept")
    async with embedded(tmp_path) as second, AsyncClient(second.address) as client:
        assert [dataset.name async for dataset in client.list_datasets()] == ["projects/default/datasets/kept"]


async def test_a_taken_port_is_one_sentence(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(FailedPrecondition, match="is taken") as caught:
            async with embedded(tmp_path, port=taken.getsockname()[1]):
                pass
    assert caught.value.reason == "PORT_TAKEN"
    async with embedded(tmp_path):
        pass  # the lock was let go


async def test_a_stack_that_is_stopped_while_it_starts_ends_without_a_word(tmp_path, monkeypatch, caplog):
    async def begin() -> None:
        async with embedded(tmp_path):
            pass

    def launch() -> None:
        loop.call_soon_threadsafe(starting.cancel)
        launched()

    loop, launched = asyncio.get_running_loop(), workflow_engine._launch
    monkeypatch.setattr(workflow_engine, "_launch", launch)
    monkeypatch.setattr(logging.getLogger("dbos"), "propagate", True)
    starting = asyncio.create_task(begin())
    with pytest.raises(asyncio.CancelledError):
        await starting
    monkeypatch.undo()
    async with embedded(tmp_path):
        pass  # everything was let go
    assert [record.message for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_metrics_are_served_when_asked_for(tmp_path):
    async with embedded(tmp_path, metrics_port=0) as running:
        host, port = running.metrics_address.split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET /metrics HTTP/1.0\r\n\r\n")
        page = await asyncio.wait_for(reader.read(), timeout=10)
        writer.close()
    assert b"omnialign_" in page


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_command_serves_until_a_signal_and_ends_orderly(tmp_path, number):
    words = [sys.executable, "-c", START, "up", "--json", "--port", "0", "--root", str(tmp_path)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        started = json.loads(process.stdout.readline())
        environ = os.environ | {"OMNIALIGN_ROOT": str(tmp_path), "OMNIALIGN_ADDRESS": ""}
        words = [sys.executable, "-c", START, "data", "list"]
        listed = subprocess.run(words, env=environ, capture_output=True, text=True, timeout=60, check=True)
        assert listed.stdout == "No datasets yet.\n"
        words = [sys.executable, "-c", START, "up", "--root", str(tmp_path), "--port", "0"]
        second = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
        assert second.returncode == 1
        assert f"at {started['address']}" in second.stderr
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, errors
    assert "Traceback" not in errors
    assert read_state(tmp_path) is None


def test_the_command_on_another_root_says_how_other_commands_find_it(tmp_path):
    words = [sys.executable, "-u", "-c", START, "up", "--port", "0", "--root", str(tmp_path)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        try:
            lines = [process.stdout.readline() for _ in range(3)]
        finally:
            process.terminate()
    assert lines[0] == "Starting all services in this process.\n"  # it takes a while
    assert lines[2] == f"In other terminals: export OMNIALIGN_ROOT={tmp_path}\n"


def test_media_are_kept_with_the_rest_unless_the_environment_says_where(tmp_path, monkeypatch):
    monkeypatch.delenv("OMNIALIGN_ENGINE_FEATURE_CACHE", raising=False)
    assert engine_config(tmp_path).feature_cache == tmp_path / "features"
    assert engine_config(tmp_path).policy_folder == tmp_path / "policies"
    monkeypatch.setenv("OMNIALIGN_ENGINE_FEATURE_CACHE", "/elsewhere")
    assert str(engine_config(tmp_path).feature_cache) == "/elsewhere"


async def test_the_console_is_beside_the_services_when_asked_for(tmp_path):
    async with embedded(tmp_path, console_port=0) as running:
        host, port = running.console_address.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        request = f"GET /projects/default/jobs HTTP/1.1\r\nhost: {host}:{port}\r\nconnection: close\r\n\r\n"
        writer.write(request.encode())
        page = await asyncio.wait_for(reader.read(), timeout=30)
        writer.close()
    assert page.startswith(b"HTTP/1.1 200")
    assert b"There are no jobs yet" in page


def test_a_demo_on_a_server_leaves_the_console_to_the_server():
    words = [sys.executable, "-c", START, "demo", "--console", "--address", "localhost:1"]
    refused = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert (refused.returncode, "--console" in refused.stderr) == (2, True)


@pytest.mark.parametrize("screen", ["", ":0"])
async def test_a_demo_that_shows_its_console_opens_it_where_there_is_a_screen_and_keeps_it(
    tmp_path, monkeypatch, capsys, screen
):
    opened, shown = list[str](), list[bytes]()

    async def align(session, plan, *, source, folder, goodbye):
        address = capsys.readouterr().out.split("Console: ")[1].split()[0]
        shown.append(await asyncio.to_thread(lambda: urllib.request.urlopen(f"{address}/projects/default/jobs").read()))
        return {}

    async def tell(numbers):
        pass

    async def stays(stack):
        shown.append(await asyncio.to_thread(lambda: urllib.request.urlopen(stack.console_address).read()))

    monkeypatch.setattr(EmbeddedStack, "serve_until_signal", stays)
    monkeypatch.setenv("DISPLAY", screen)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setattr(commands, "_align", align)
    monkeypatch.setattr("webbrowser.open", lambda address: opened.append(address) or True)
    await commands._run_in_process(Output(), None, tmp_path, tell=tell, stay=True)
    assert len(shown) == 2 and all(b"There are no jobs yet" in page for page in shown)
    assert len(opened) == (sys.platform in ("darwin", "win32") or bool(screen))
    said = capsys.readouterr().out
    assert "The console goes on at http://127.0.0.1:" in said and "`omnialign up --root" in said
