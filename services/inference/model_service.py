"""Settings that every model service has: where the data service is, and what a request gets that does not ask for more.

Each service's own configuration extends this one with its environment prefix.
"""

from collections.abc import Iterator
from dataclasses import dataclass

MIB = 1 << 20


@dataclass(frozen=True)
class ModelServiceConfig:
    """What critique, refinement and judge services are told alike."""

    data_address: str
    """`host:port` of the data service, which holds media and models."""
    project: str = "default"
    """Project whose media are read and written."""
    max_new_tokens: int = 1024
    """Bound of new tokens of requests that name none."""
    media_cache_bytes: int = 64 * MIB
    """Bytes of media kept at hand."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """Numbers out of range."""
        if self.max_new_tokens < 1:
            yield "max_new_tokens", "must be 1 or more"
        if self.media_cache_bytes < 0:
            yield "media_cache_bytes", "must be 0 or more"
