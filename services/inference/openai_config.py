"""How an engine asks OpenAI-compatible endpoints, from the environment (`OMNIALIGN_ENGINE_OPENAI_*`).

Model names come from callers, so the operator says which endpoints may be asked at all: with none listed, none is,
loopback included. Otherwise anybody who may ask for a critique could make a pod send requests to its neighbours.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from omnialign.errors import InvalidArgument
from services.inference.openai_names import base_url_of


@dataclass(frozen=True)
class OpenAIConfig:
    """Endpoints, their keys, and how patiently they are asked."""

    openai_endpoints: tuple[str, ...] = ()
    """Base URLs that `openai+...` models may name, as in `https://host/v1`; scheme, host, port and path must all be
    the same. Empty means none."""
    openai_keys_file: Path | None = None
    """File with a line `BASE_URL KEY` per endpoint that wants a key; read again when it changes."""
    openai_concurrency: int = 64
    """Most requests that are at one endpoint at the same time; fewer while it is overloaded."""
    openai_connect_seconds: float = 5.0
    """How long a connection may take."""
    openai_request_seconds: float = 600.0
    """How long one try of a request may take."""
    openai_max_retries: int = 10
    """How often one request is tried again."""
    openai_retry_seconds: float = 120.0
    """How long after its first failure one request is tried again."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """Numbers out of range and addresses that are none."""
        if self.openai_concurrency < 1:
            yield "openai_concurrency", "must be 1 or more"
        if self.openai_max_retries < 0:
            yield "openai_max_retries", "must be 0 or more"
        for name in ("openai_connect_seconds", "openai_request_seconds", "openai_retry_seconds"):
            if not 0 < getattr(self, name) < float("inf"):
                yield name, "must be a number of seconds above 0"
        for endpoint in self.openai_endpoints:
            try:
                base_url_of(endpoint, model=endpoint)
            except InvalidArgument as error:
                yield "openai_endpoints", error.message
