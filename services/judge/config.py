"""Settings of the judge service, read once from the environment (`OMNIALIGN_JUDGE_*`)."""

from dataclasses import dataclass
from typing import ClassVar

from services.inference.config import ModelServiceConfig


@dataclass(frozen=True)
class JudgeConfig(ModelServiceConfig):
    """What every model service is told."""

    ENV_PREFIX: ClassVar[str] = "OMNIALIGN_JUDGE_"
