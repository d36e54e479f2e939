"""Traces across services: a span per RPC and per unit of work, sent to an OTLP collector where one is configured.

Off by default, and then it costs nothing: OpenTelemetry is not even imported. The context travels between services as
W3C's `traceparent` in the metadata of calls. Spans are sent in the background; a collector that is away loses spans and
holds nothing up.
"""

import contextlib
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

from services.runtime.config import load

Attributes = dict[str, str | int | float | bool]


@dataclass(frozen=True)
class TracingConfig:
    """Where spans are sent, and how many."""

    ENV_PREFIX: ClassVar[str] = "OMNIALIGN_TRACING_"

    endpoint: str = ""
    """OTLP gRPC endpoint, such as `http://collector:4317` (`https` for TLS); empty turns tracing off."""
    ca_file: str = ""
    """CA certificates to verify an `https` collector with; empty means the system's."""
    sample_ratio: float = 1.0
    """Share of the traces begun here that are kept. For traces begun elsewhere, their first service decides."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields (field, problem) for an endpoint without a scheme, a missing file, and a ratio outside 0 to 1."""
        if self.endpoint and not self.endpoint.startswith(("http://", "https://")):
            yield "endpoint", "must begin with http:// or https://"
        if self.ca_file and not Path(self.ca_file).is_file():
            yield "ca_file", "is not a file"
        if not 0 <= self.sample_ratio <= 1:
            yield "sample_ratio", "must be between 0 and 1"


class RpcSpan(Protocol):
    """The span of a call that is being answered."""

    def end(self, code: str, reason: str) -> None:
        """Ends it with the call's status code and the reason of its error, empty for none. Must be called once."""


class Tracer(Protocol):
    """Makes spans while tracing is on."""

    def rpc(self, service: str, method: str, metadata: Sequence[tuple[str, Any]]) -> RpcSpan:
        """Begins the span of a call, below the caller's one if its metadata name one."""

    def span(self, name: str, *, is_root: bool, attributes: Attributes) -> contextlib.AbstractContextManager[None]:
        """A span around a block."""

    def trace_id(self) -> str:
        """Id of the current trace in hexadecimal; empty outside one."""

    def close(self) -> None:
        """Sends what is left."""


_lock = threading.Lock()
_tracer: Tracer | None = None


def is_on() -> bool:
    """Whether spans are sent."""
    return _tracer is not None


@contextlib.contextmanager
def exported(component: str, config: TracingConfig | None = None) -> Iterator[None]:
    """Sends the spans of this process while the block runs, if an endpoint is set (in the environment for None).

    `component` is the process's name. One process has one tracer: inside another such block this one does nothing.
    """
    global _tracer
    settings = load(TracingConfig) if config is None else config
    with _lock:
        owner = bool(settings.endpoint) and _tracer is None
        if owner:
            from services.runtime.otlp import OtlpTracer

            _tracer = OtlpTracer(settings, component=component)
    try:
        yield
    finally:
        if owner and _tracer is not None:
            tracer, _tracer = _tracer, None
            tracer.close()


def rpc(service: str, method: str, context: Any) -> RpcSpan | None:
    """The span of a call that begins to be answered; None while tracing is off."""
    return None if _tracer is None else _tracer.rpc(service, method, context.invocation_metadata() or ())


@contextlib.contextmanager
def span(name: str, *, is_root: bool = False, **attributes: str | int | float | bool) -> Iterator[None]:
    """A span around a block of work; a root one begins a trace of its own. An exception marks it as failed."""
    if _tracer is None:
        yield
        return
    with _tracer.span(name, is_root=is_root, attributes=attributes):
        yield


def trace_id() -> str:
    """Id of the current trace in hexadecimal, for logs; empty outside one."""
    return "" if _tracer is None else _tracer.trace_id()
