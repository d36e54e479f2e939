"""A console before the services of alignment jobs, through a gateway; the judge gives reasons."""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from benchmarks.null_services import NullJudge
from services.console.__main__ import opened
from services.console.config import ConsoleConfig
from services.gateway.__main__ import GatewayConfig
from services.gateway.__main__ import wire as wire_gateway
from services.runtime.config import ServerConfig
from services.runtime.connections import ClientFactory
from services.runtime.server import Server
from tests.service_stack import ServiceStack
from tests.services.console.hostile import SCRIPT


@dataclass
class Reviewing:
    """The alignment service among its servers, and where the console is."""

    stack: ServiceStack
    address: str


@contextlib.asynccontextmanager
async def reviewed(
    root: Path, monkeypatch: pytest.MonkeyPatch, *, reason: str = f"True. {SCRIPT}"
) -> AsyncIterator[Reviewing]:
    """All of them without authentication, for the block; `reason` is what the judge says when it sees y* first."""
    verdict = NullJudge._verdict

    def reasoned(self: NullJudge, request: Any, item: Any) -> dict[str, Any]:
        found = verdict(self, request, item)
        found["comparison"].forward_reason, found["comparison"].backward_reason = "It is shorter.", reason
        return found

    monkeypatch.setattr(NullJudge, "_verdict", reasoned)
    services = ServiceStack(root)
    names = ("data", "refinement", "critique", "judge", "training", "alignment", "evaluation", "annotation")
    port_of = {name: services.ports.get(name, services.ports["models"]) for name in names}
    gateway = GatewayConfig(**{f"{name}_address": f"127.0.0.1:{port}" for name, port in port_of.items()})
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(services.close)
        await services.open()
        server = Server(ServerConfig(), name="gateway")
        await stack.enter_async_context(wire_gateway(server, gateway))
        await server.start()
        server.set_serving()
        stack.push_async_callback(server.stop, 0)
        config = ConsoleConfig(gateway_address=server.address, project="default", sign_in=False)
        web = await stack.enter_async_context(
            opened(config, ServerConfig(), clients=ClientFactory(), registry=CollectorRegistry())
        )
        yield Reviewing(services, web.address)
