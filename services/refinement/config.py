"""Settings of the refinement service, read once from the environment (`OMNIALIGN_REFINEMENT_*`)."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

MIB = 1 << 20


@dataclass(frozen=True)
class RefinementConfig:
    """Where the data service is, and what a request gets that does not ask for more."""

    ENV_PREFIX: ClassVar[str] = "OMNIALIGN_REFINEMENT_"

    data_address: str
    """`host:port` of the data service, which holds media and models."""
    project: str = "default"
    """Project whose media are read and written."""
    max_new_tokens: int = 2048
    """Bound of new tokens of requests that name none."""
    temperature: float = 1.0
    """Temperature of requests without sampling parameters; in those that have some, 0 is greedy."""
    media_cache_bytes: int = 64 * MIB
    """Bytes of media kept at hand."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """Numbers out of range."""
        if self.max_new_tokens < 1:
            yield "max_new_tokens", "must be 1 or more"
        if not 0 <= self.temperature <= 10:
            yield "temperature", "must be between 0 and 10"
        if self.media_cache_bytes < 0:
            yield "media_cache_bytes", "must be 0 or more"
