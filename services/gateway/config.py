"""Settings of the gateway, read once from the environment (`OMNIALIGN_GATEWAY_*`)."""

from dataclasses import dataclass
from typing import ClassVar

from omnialign.v1 import (
    alignment_service_pb2,
    critique_service_pb2,
    data_service_pb2,
    judge_service_pb2,
    refinement_service_pb2,
    training_service_pb2,
)


@dataclass(frozen=True)
class GatewayConfig:
    """Where the services are."""

    ENV_PREFIX: ClassVar[str] = "OMNIALIGN_GATEWAY_"

    data_address: str
    """`host:port` of the DataService."""
    refinement_address: str
    """`host:port` of the RefinementService."""
    critique_address: str
    """`host:port` of the CritiqueService."""
    judge_address: str
    """`host:port` of the JudgeService."""
    training_address: str
    """`host:port` of the TrainingService."""
    alignment_address: str
    """`host:port` of the AlignmentService."""

    def routes(self) -> dict[str, str]:
        """The address of each method by its path on the wire."""
        services = (
            (data_service_pb2, self.data_address),
            (refinement_service_pb2, self.refinement_address),
            (critique_service_pb2, self.critique_address),
            (judge_service_pb2, self.judge_address),
            (training_service_pb2, self.training_address),
            (alignment_service_pb2, self.alignment_address),
        )
        return {
            f"/{service.full_name}/{method.name}": address
            for module, address in services
            for service in module.DESCRIPTOR.services_by_name.values()
            for method in service.methods
        }
