"""The life of a server: ready, busy, drained."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import urllib.request

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from omnialign.client import AsyncClient
from services.runtime.config import ServerConfig
from services.runtime.server import Server

SERVICE = "omnialign.v1.DataService"
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


async def check(address: str, service: str) -> int:
    async with grpc.aio.insecure_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        return (await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=5)).status


async def test_health_is_not_serving_until_ready_and_again_when_told(start_server):
    server = await start_server()
    assert [await check(server.address, name) for name in ("", SERVICE)] == [NOT_SERVING, NOT_SERVING]
    server.set_serving()
    assert [await check(server.address, name) for name in ("", SERVICE)] == [SERVING, SERVING]
    server.set_not_serving(SERVICE)
    assert [await check(server.address, name) for name in ("", SERVICE)] == [SERVING, NOT_SERVING]
    assert await check(server.address, "liveness") == SERVING


async def test_unknown_health_name_is_not_found(server):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await check(server.address, "omnialign.v1.Misspelt")
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_health_watch_tells_changes(start_server):
    server = await start_server()
    async with grpc.aio.insecure_channel(server.address) as channel:
        stream = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=SERVICE))
        assert (await stream.read()).status == NOT_SERVING
        server.set_serving(SERVICE)
        assert (await stream.read()).status == SERVING


async def test_health_and_reflection_answer_when_the_server_is_full(start_server, probe):
    server = await start_server(max_concurrent_rpcs=1, health_port=0)
    server.set_serving()
    async with AsyncClient(server.address) as client:
        busy = asyncio.create_task(client.get_dataset("wait"))
        await probe.entered.wait()
        assert await check(server.address, SERVICE) == SERVING
        assert server.health_address != server.address
        assert await check(server.health_address, SERVICE) == SERVING
        assert SERVICE in await reflected_services(server.address)
        probe.release.set()
        await busy


async def reflected_services(address: str) -> list[str]:
    async def questions():
        yield reflection_pb2.ServerReflectionRequest(list_services="")

    async with grpc.aio.insecure_channel(address) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        async for answer in stub.ServerReflectionInfo(questions()):
            return [service.name for service in answer.list_services_response.service]
    return []


async def test_metrics_are_scraped_over_http(start_server):
    server = await start_server(metrics_port=0)
    async with AsyncClient(server.address) as client:
        await client.get_dataset("a")
    url = f"http://{server.metrics_address}/metrics"
    text = (await asyncio.to_thread(urllib.request.urlopen, url, None, 5)).read().decode()
    labels = 'code="OK",method="GetDataset",service="omnialign.v1.DataService"'
    assert f"omnialign_rpc_requests_total{{{labels}}} 1.0" in text
    assert 'omnialign_build_info{component="probe"' in text


async def test_a_taken_port_is_an_error(server):
    port = int(server.address.rpartition(":")[2])
    with pytest.raises(RuntimeError):
        Server(ServerConfig(port=port), name="second").bind()


async def test_stop_lets_a_call_in_flight_finish(server, client, probe):
    call = asyncio.create_task(client.get_dataset("wait"))
    await probe.entered.wait()
    stopping = asyncio.create_task(server.stop(10))
    await asyncio.sleep(0)
    probe.release.set()
    assert (await call).name == "wait"
    await stopping


async def test_a_drain_does_not_lose_a_cancellation_that_comes_with_the_second_signal(start_server):
    server, second_signal = await start_server(drain_seconds=30), asyncio.Event()
    draining = asyncio.create_task(server._drain(second_signal))
    await asyncio.sleep(0)
    second_signal.set()
    await asyncio.sleep(0)  # the wait has seen the event, and the drain has not gone on yet
    draining.cancel()
    with pytest.raises(asyncio.CancelledError):
        await draining
    assert draining.cancelled()


PROGRAM = """
import asyncio, contextlib, sys
from dataclasses import dataclass
from typing import ClassVar
from omnialign.v1 import data_service_pb2, data_service_pb2_grpc, dataset_pb2
from services.runtime.server import run

class Slow(data_service_pb2_grpc.DataServiceServicer):
    async def GetDataset(self, request, context):
        print("entered", flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
        return dataset_pb2.Dataset(name=request.name)

@dataclass(frozen=True)
class Config:
    ENV_PREFIX: ClassVar[str] = "OMNIALIGN_SLOW_"
    needed: int

@contextlib.asynccontextmanager
async def wire(server, config):
    server.add(data_service_pb2_grpc.add_DataServiceServicer_to_server, Slow(), "omnialign.v1.DataService")
    print(server.bind(), flush=True)
    yield
    print("closed", flush=True)

run("slow", Config, wire)
"""


def start_program(**environ: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environ},
    )


async def test_sigterm_drains_a_call_in_flight_and_closes_the_wiring():
    with start_program(OMNIALIGN_SLOW_NEEDED="1") as process:

        async def line() -> str:
            return (await asyncio.to_thread(process.stdout.readline)).strip()

        async with AsyncClient(await line()) as client:
            call = asyncio.create_task(client.get_dataset("kept"))
            assert await line() == "entered"
            process.send_signal(signal.SIGTERM)
            log = await asyncio.to_thread(lines_until, process.stderr, "slow drains")
            process.stdin.write("\n")
            process.stdin.flush()
            assert (await call).name == "kept"
        assert await line() == "closed"
        assert await asyncio.to_thread(process.wait, 10) == 0
        assert [json.loads(entry)["level"] for entry in log] == ["INFO"] * len(log)


def lines_until(stream, end: str) -> list[str]:
    lines = []
    while True:
        lines.append(stream.readline())
        if end in lines[-1] or not lines[-1]:
            return lines


async def test_wrong_configuration_stops_the_process_with_every_problem():
    with start_program(OMNIALIGN_SERVER_PORT="many", OMNIALIGN_SLOW_EXTRA="1") as process:
        _, errors = await asyncio.to_thread(process.communicate, None, 20)
    assert process.returncode == 2
    for variable in ("OMNIALIGN_SERVER_PORT", "OMNIALIGN_SLOW_EXTRA", "OMNIALIGN_SLOW_NEEDED"):
        assert variable in errors
    assert "Traceback" not in errors
