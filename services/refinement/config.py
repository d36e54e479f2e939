"""Settings of the refinement service, read once from the environment (`OMNIALIGN_REFINEMENT_*`)."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from services.inference.config import ModelServiceConfig


@dataclass(frozen=True)
class RefinementConfig(ModelServiceConfig):
    """What every model service is told, and how to draw when a request does not say."""

    ENV_PREFIX: ClassVar[str] = "OMNIALIGN_REFINEMENT_"

    max_new_tokens: int = 2048
    """Bound of new tokens of requests that name none."""
    temperature: float = 1.0
    """Temperature of requests without sampling parameters; in those that have some, 0 is greedy."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """Numbers out of range."""
        yield from super().problems()
        if not 0 <= self.temperature <= 10:
            yield "temperature", "must be between 0 and 10"
