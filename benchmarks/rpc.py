"""What the full interceptor stack costs per unary call, against a bare `grpc.aio` servicer.

Both servers live in this process and answer the same method with the same servicer, over loopback, to the same kind of
client; they differ only in `services.runtime.server.Server` (request ids, logs, metrics, error mapping, deadlines,
limits, validation). A read and a write are measured, since only writes are logged at the default level. Repeats
alternate between the servers, so a slow phase of the machine meets both.
"""

import argparse
import asyncio
import functools
import logging
import os
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import grpc
from google.protobuf.message import Message

from omnialign.v1 import data_service_pb2, data_service_pb2_grpc, dataset_pb2
from services.runtime.config import ServerConfig
from services.runtime.logs import JsonFormatter
from services.runtime.server import Server

SERVICE = data_service_pb2.DESCRIPTOR.services_by_name["DataService"].full_name
REQUESTS: dict[str, Message] = {
    "GetDataset": data_service_pb2.GetDatasetRequest(name="projects/default/datasets/bench"),
    "CreateDataset": data_service_pb2.CreateDatasetRequest(
        parent="projects/default",
        dataset_id="bench",
        dataset=dataset_pb2.Dataset(display_name="Bench", labels={"purpose": "measurement"}),
        request_id="c0a8012e-5b1f-4a51-9d0b-3a4f0e2b7c11",
    ),
}
IN_FLIGHT = 32
DEADLINE_SECONDS = 30.0

Call = Callable[[], Awaitable[object]]


class Servicer(data_service_pb2_grpc.DataServiceServicer):
    """Answers two methods at once, and no other."""

    async def GetDataset(  # type: ignore[override]  # noqa: N802
        self, request: data_service_pb2.GetDatasetRequest, context: object
    ) -> dataset_pb2.Dataset:
        """A dataset of the name asked for."""
        return dataset_pb2.Dataset(name=request.name, uid="bench", record_count=1)

    async def CreateDataset(  # type: ignore[override]  # noqa: N802
        self, request: data_service_pb2.CreateDatasetRequest, context: object
    ) -> dataset_pb2.Dataset:
        """The dataset asked for."""
        return dataset_pb2.Dataset(name=f"{request.parent}/datasets/{request.dataset_id}", uid="bench")


@contextmanager
def logs_written_nowhere() -> Iterator[None]:
    """Logs as a service does, formatting included, but to the null device."""
    root = logging.getLogger()
    level = root.level
    with Path(os.devnull).open("w") as sink:
        handler = logging.StreamHandler(sink)
        handler.setFormatter(JsonFormatter())
        root.addHandler(handler)
        root.setLevel(logging.INFO)
        try:
            yield
        finally:
            root.removeHandler(handler)
            root.setLevel(level)


async def bare_server(stack: AsyncExitStack) -> str:
    """Starts a bare gRPC server and yields its address."""
    server = grpc.aio.server()
    data_service_pb2_grpc.add_DataServiceServicer_to_server(Servicer(), server)  # type: ignore[abstract]
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    stack.push_async_callback(server.stop, None)
    return f"127.0.0.1:{port}"


async def full_server(stack: AsyncExitStack) -> str:
    """Starts the server that every service runs on and yields its address."""
    server = Server(ServerConfig(), name="bench")
    server.add(data_service_pb2_grpc.add_DataServiceServicer_to_server, Servicer(), SERVICE)  # type: ignore[abstract]
    await server.start()
    stack.push_async_callback(server.stop, 0)
    server.set_serving()
    return server.address


async def connect(stack: AsyncExitStack, address: str) -> dict[str, Call]:
    """A plain client of the server at `address`: one call per method."""
    channel = await stack.enter_async_context(grpc.aio.insecure_channel(address))
    stub = data_service_pb2_grpc.DataServiceStub(channel)
    return {
        name: functools.partial(getattr(stub, name), request, timeout=DEADLINE_SECONDS)
        for name, request in REQUESTS.items()
    }


async def latency_microseconds(call: Call, *, calls: int) -> float:
    """Median time of one call, with nothing else in flight."""
    times = []
    for _ in range(calls):
        started = time.perf_counter_ns()
        await call()
        times.append(time.perf_counter_ns() - started)
    return median(times) / 1000


async def calls_per_second(call: Call, *, calls: int) -> float:
    """Throughput with `IN_FLIGHT` concurrent calls."""

    async def worker() -> None:
        for _ in range(max(1, calls // IN_FLIGHT)):
            await call()

    started = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(IN_FLIGHT)))
    return IN_FLIGHT * max(1, calls // IN_FLIGHT) / (time.perf_counter() - started)


async def repeats(clients: dict[str, Call], *, calls: int, count: int) -> list[dict[str, dict[str, float]]]:
    """Every measurement `count` times, the two servers in turn and the first one alternating."""
    found = []
    for turn in range(count):
        order = sorted(clients, reverse=turn % 2 == 1)
        found.append(
            {
                name: {
                    "latency (µs)": await latency_microseconds(clients[name], calls=calls),
                    "calls per second": await calls_per_second(clients[name], calls=calls),
                }
                for name in order
            }
        )
    return found


def summary(found: list[dict[str, dict[str, float]]]) -> dict[str, Any]:
    """Medians over the repeats, and the ratio within each repeat: its median, least and greatest."""
    result: dict[str, Any] = {}
    for measure in ("latency (µs)", "calls per second"):
        ratios = [turn["full"][measure] / turn["bare"][measure] for turn in found]
        result[measure] = {
            "bare": median(turn["bare"][measure] for turn in found),
            "full stack": median(turn["full"][measure] for turn in found),
            "ratio": {"median": median(ratios), "least": min(ratios), "greatest": max(ratios)},
        }
    latency = result["latency (µs)"]
    latency["added per call"] = latency["full stack"] - latency["bare"]
    return result


async def run_async(settings: argparse.Namespace) -> dict[str, Any]:
    """Starts both servers, warms them up, and measures."""
    results = {}
    async with AsyncExitStack() as stack:
        stack.enter_context(logs_written_nowhere())
        bare = await connect(stack, await bare_server(stack))
        full = await connect(stack, await full_server(stack))
        for name in REQUESTS:
            clients = {"bare": bare[name], "full": full[name]}
            for call in clients.values():
                await latency_microseconds(call, calls=min(200, settings.calls))
            results[name] = summary(await repeats(clients, calls=settings.calls, count=settings.repeats))
    return {
        "title": "Overhead of the interceptor stack (rpc)",
        "about": "Unary calls of DataService over loopback, client and both servers in one process.",
        "repeats": settings.repeats,
        "calls per repeat": settings.calls,
        "calls in flight (throughput)": IN_FLIGHT,
        **results,
    }


def run(settings: argparse.Namespace) -> dict[str, Any]:
    """The benchmark: `settings.calls` calls per repeat, `settings.repeats` repeats."""
    return asyncio.run(run_async(settings))
