"""The life of a console: probes, metrics, services that are away, and its end."""

import asyncio
import os
import signal
import subprocess
import sys

import httpx2
import pytest

from omnialign.errors import FailedPrecondition
from services.console.lifetime import Lifetime
from services.console.server import WebServer
from services.runtime.config import ServerConfig
from tests.certificates import Authority
from tests.processes import REPOSITORY, free_port


async def test_probes_say_that_it_lives_and_whether_it_is_ready(open_console):
    browser = await open_console.browser()
    assert (await browser.get("/healthz/live")).status_code == 200
    assert (await browser.get("/healthz/ready")).status_code == 200


async def test_the_page_says_that_the_services_are_away_and_recovers_by_itself(open_console):
    browser = await open_console.browser()
    await open_console.services.stop(0)
    away = await browser.get("/projects/demo/jobs")
    assert away.status_code == 503
    assert "The services are away" in away.text
    assert away.headers["refresh"] == "3"  # the browser asks again, without a script
    assert (await browser.get("/healthz/ready")).status_code == 200  # or nobody could read the page


async def test_requests_are_counted_by_route_and_status(open_console):
    browser = await open_console.browser()
    await browser.get("/projects/demo/jobs")
    await browser.get("/projects/absent/nothing/at/all")
    read = open_console.registry.get_sample_value
    counter = "omnialign_console_requests_total"
    assert read(counter, {"route": "/projects/{project}/jobs", "method": "GET", "status": "200"}) == 1
    assert read(counter, {"route": "unknown", "method": "GET", "status": "404"}) == 1


async def test_the_door_is_on_the_same_server_and_needs_a_key_of_its_own(console, browser):
    assert (await browser.get("/v1/models")).status_code == 401  # the browser's cookie is no key
    listed = await browser.get("/v1/models", authorization="Bearer alice-token")
    assert (listed.status_code, listed.json()["data"]) == (200, [])
    counter = "omnialign_console_requests_total"
    labels = {"route": "/v1/models", "method": "GET", "status": "401"}
    assert console.registry.get_sample_value(counter, labels) == 1


async def test_requests_in_flight_are_finished_before_the_end():
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slow(scope, receive, send):
        begun.set()
        await go_on.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"whole"})

    lifetime = Lifetime()
    server = WebServer(slow, ServerConfig(), lifetime=lifetime)
    await server.start()
    async with httpx2.AsyncClient() as http:
        answer = asyncio.create_task(http.get(server.address))
        await begun.wait()
        stopping = asyncio.create_task(server.stop(10))
        await lifetime.ending.wait()
        assert not lifetime.is_ready
        go_on.set()
        assert (await answer).text == "whole"
    await stopping


async def test_a_port_that_is_taken_is_one_sentence_or_another_port():
    async def nothing(scope, receive, send): ...

    first = WebServer(nothing, ServerConfig(), lifetime=Lifetime())
    port = int(first.address.rpartition(":")[2])
    with pytest.raises(FailedPrecondition, match=f"Port {port} is taken"):
        WebServer(nothing, ServerConfig(port=port), lifetime=Lifetime())
    second = WebServer(nothing, ServerConfig(port=port), lifetime=Lifetime(), or_any=True)
    assert second.address != first.address
    await first.stop(0)
    await second.stop(0)


async def test_it_speaks_tls(tmp_path):
    authority = Authority(tmp_path)
    pair = authority.issue()

    async def hello(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": scope["scheme"].encode()})

    config = ServerConfig(tls_certificate_file=pair.certificate, tls_key_file=pair.key)
    server = WebServer(hello, config, lifetime=Lifetime())
    await server.start()
    import ssl

    async with httpx2.AsyncClient(verify=ssl.create_default_context(cafile=str(authority.file))) as http:
        assert (await http.get(server.address)).text == "https"
    await server.stop(0)


async def test_the_process_serves_until_sigterm():
    port, metrics = free_port(), free_port()
    environment = {
        **os.environ,
        "OMNIALIGN_CONSOLE_GATEWAY_ADDRESS": "127.0.0.1:1",
        "OMNIALIGN_SERVER_PORT": str(port),
        "OMNIALIGN_SERVER_METRICS_PORT": str(metrics),
    }
    process = begin(environment)
    async with httpx2.AsyncClient(transport=httpx2.AsyncHTTPTransport(retries=40)) as http:
        assert (await http.get(f"http://127.0.0.1:{port}/healthz/ready")).status_code == 200
        page = await http.get(f"http://127.0.0.1:{port}/projects/default/jobs")
        assert (page.status_code, "away" in page.text) == (503, True)
        found = await http.get(f"http://127.0.0.1:{metrics}/metrics")
        assert "omnialign_console_requests_total" in found.text
    process.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(process.wait, 30) == 0


def begin(environment):
    return subprocess.Popen([sys.executable, "-m", "services.console"], env=environment, cwd=REPOSITORY)


def test_wrong_settings_stop_the_process_and_are_listed():
    environment = {**os.environ, "OMNIALIGN_CONSOLE_GATEWAY": "misspelt"}
    ended = subprocess.run(
        [sys.executable, "-m", "services.console"], env=environment, cwd=REPOSITORY, capture_output=True, text=True
    )
    assert ended.returncode == 2
    assert "OMNIALIGN_CONSOLE_GATEWAY_ADDRESS: is required" in ended.stderr
    assert "OMNIALIGN_CONSOLE_GATEWAY: is not a setting" in ended.stderr
