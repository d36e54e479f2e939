"""Settings of the critique service, read once from the environment (`OMNIALIGN_CRITIQUE_*`)."""

from dataclasses import dataclass
from typing import ClassVar

from services.inference.config import ModelServiceConfig


@dataclass(frozen=True)
class CritiqueConfig(ModelServiceConfig):
    """What every model service is told."""

    ENV_PREFIX: ClassVar[str] = "OMNIALIGN_CRITIQUE_"
