"""The gateway's settings, read once from the environment (`OMNIALIGN_GATEWAY_*`), and its wiring."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

from omnialign.v1 import (
    alignment_service_pb2,
    annotation_service_pb2,
    critique_service_pb2,
    data_service_pb2,
    evaluation_service_pb2,
    judge_service_pb2,
    policy_service_pb2,
    refinement_service_pb2,
    training_service_pb2,
)
from services.gateway.servicer import Proxy
from services.runtime.server import Server, run

FULL_NAME = "omnialign.Gateway"
"""Its name to health checks; it has no methods of its own."""


@dataclass(frozen=True)
class GatewayConfig:
    """Where the services are."""

    ENV_PREFIX: ClassVar[str] = "OMNIALIGN_GATEWAY_"

    data_address: str
    """`host:port` of the DataService."""
    refinement_address: str
    """`host:port` of the RefinementService and the PolicyService."""
    critique_address: str
    """`host:port` of the CritiqueService."""
    judge_address: str
    """`host:port` of the JudgeService."""
    training_address: str
    """`host:port` of the TrainingService."""
    alignment_address: str
    """`host:port` of the AlignmentService."""
    evaluation_address: str
    """`host:port` of the EvaluationService."""
    annotation_address: str
    """`host:port` of the AnnotationService."""
    require_token: bool = False
    """Whether calls without a token are refused here: on where the services behind require one."""

    def routes(self) -> dict[str, str]:
        """The address of each method by its path on the wire."""
        services = (
            (data_service_pb2, self.data_address),
            (refinement_service_pb2, self.refinement_address),
            (policy_service_pb2, self.refinement_address),
            (critique_service_pb2, self.critique_address),
            (judge_service_pb2, self.judge_address),
            (training_service_pb2, self.training_address),
            (alignment_service_pb2, self.alignment_address),
            (evaluation_service_pb2, self.evaluation_address),
            (annotation_service_pb2, self.annotation_address),
        )
        return {
            f"/{service.full_name}/{method.name}": address
            for module, address in services
            for service in module.DESCRIPTOR.services_by_name.values()
            for method in service.methods
        }


@asynccontextmanager
async def wire(server: Server, config: GatewayConfig) -> AsyncIterator[None]:
    """Adds the gateway to a server; on exit closes its connections."""
    async with AsyncExitStack() as stack:
        routes, channels = config.routes(), dict[str, Any]()
        for address in set(routes.values()):
            channels[address] = await stack.enter_async_context(server.clients.channel(address))
        proxy = Proxy({path: channels[address] for path, address in routes.items()})
        server.add_generic(proxy, FULL_NAME)
        if config.require_token:
            server.require_bearer()
        yield


def main() -> None:
    """Runs the gateway until SIGTERM."""
    run("gateway", GatewayConfig, wire)


if __name__ == "__main__":
    main()
