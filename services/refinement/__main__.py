"""The refinement service's settings, read once from the environment (`OMNIALIGN_REFINEMENT_*`), and its wiring."""

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from omnialign.v1 import (
    policy_service_pb2,
    policy_service_pb2_grpc,
    refinement_service_pb2,
    refinement_service_pb2_grpc,
)
from services.inference.config import ModelServiceConfig
from services.inference.factory import RoutingEngine, engine_or_own, open_loop
from services.inference.policies.store import PolicyStore
from services.refinement.policies import Policies
from services.refinement.replicas import Replicas
from services.refinement.servicer import PolicyServicer, RefinementServicer
from services.refinement.writer import Writer
from services.runtime.server import Server, run

FULL_NAME = refinement_service_pb2.DESCRIPTOR.services_by_name["RefinementService"].full_name
POLICY_NAME = policy_service_pb2.DESCRIPTOR.services_by_name["PolicyService"].full_name
PORT = re.compile(r".:\d{1,5}$")


@dataclass(frozen=True)
class RefinementConfig(ModelServiceConfig):
    """The settings that every model service has, and how to sample when a request does not say."""

    ENV_PREFIX: ClassVar[str] = "OMNIALIGN_REFINEMENT_"

    max_new_tokens: int = 2048
    """Bound of new tokens for requests that set none."""
    temperature: float = 1.0
    """Temperature of requests without sampling parameters; in those that have some, 0 is greedy."""
    policy_replicas: tuple[str, ...] = ()
    """`host:port` of all replicas of this service, to which changes of policies are passed on; the name of a headless
    service stands for all its pods. Empty means that this is the only one."""
    policy_roots: tuple[Path, ...] = ()
    """Folders that `file://` addresses of weights may be in; empty means none where callers authenticate, and any where
    they do not."""
    policy_idle_seconds: float = 3600.0
    """How long a policy stays open without being used."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """Numbers out of range."""
        yield from super().problems()
        if not 0 <= self.temperature <= 10:
            yield "temperature", "must be between 0 and 10"
        if not 1 <= self.policy_idle_seconds < float("inf"):
            yield "policy_idle_seconds", "must be a number of seconds, 1 or more"
        if wrong := [address for address in self.policy_replicas if not PORT.search(address)]:
            yield "policy_replicas", f"must be host:port, and {wrong[0]!r} is not"


@asynccontextmanager
async def wire(server: Server, config: RefinementConfig, *, engine: RoutingEngine | None = None) -> AsyncIterator[None]:
    """Adds the services to a server: on `engine`, or on an engine of their own if that is None."""
    async with (
        engine_or_own(server, config, engine) as found,
        open_loop(server, config, engine=found) as loop,
        open_policies(found.policies, server, config) as policies,
    ):
        servicer = RefinementServicer(Writer(loop, temperature=config.temperature))
        server.add(refinement_service_pb2_grpc.add_RefinementServiceServicer_to_server, servicer, FULL_NAME)
        server.add(policy_service_pb2_grpc.add_PolicyServiceServicer_to_server, PolicyServicer(policies), POLICY_NAME)
        yield


@asynccontextmanager
async def open_policies(store: PolicyStore, server: Server, config: RefinementConfig) -> AsyncIterator[Policies]:
    """The policies of an engine; those that nobody uses are closed while the context lasts."""
    policies = Policies(store, Replicas(config.policy_replicas, server.clients), roots=config.policy_roots)
    closing = asyncio.create_task(policies.close_idle(config.policy_idle_seconds), name="close idle policies")
    try:
        yield policies
    finally:
        closing.cancel()
        await asyncio.gather(closing, return_exceptions=True)


def main() -> None:
    """Runs the service until SIGTERM."""
    run("refinement", RefinementConfig, wire)


if __name__ == "__main__":
    main()
