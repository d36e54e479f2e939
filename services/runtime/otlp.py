"""Tracing by OpenTelemetry's SDK. Imported only where an endpoint is configured; see `services.runtime.tracing`."""

import contextlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import grpc
from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

import omnialign
from omnialign.client.context import CURRENT_CALL, trace_calls
from services.runtime.tracing import Attributes, TracingConfig

PROPAGATED = ("traceparent", "tracestate")
SCHEDULE_MILLISECONDS = 1000
EXPORT_SECONDS, CLOSE_SECONDS = 5.0, 3.0
SERVER_FAULTS = frozenset(
    {"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "RESOURCE_EXHAUSTED"}
)
"""Status codes that make a server's span a failed one; the others are the caller's affair."""


class OtlpTracer:
    """Makes spans and sends them. Its provider is its own, not the process's: libraries' spans stay out."""

    def __init__(self, config: TracingConfig, *, component: str) -> None:
        resource = Resource.create(
            {"service.namespace": "omnialign", "service.name": component, "service.version": omnialign.__version__}
        )
        sampler = ParentBased(TraceIdRatioBased(config.sample_ratio))
        self._provider = TracerProvider(resource=resource, sampler=sampler, shutdown_on_exit=False)
        exporter = OTLPSpanExporter(
            endpoint=config.endpoint,
            insecure=config.endpoint.startswith("http://"),
            credentials=_credentials(config),
            timeout=EXPORT_SECONDS,
        )
        self._provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=SCHEDULE_MILLISECONDS))
        self._tracer = self._provider.get_tracer("omnialign", omnialign.__version__)
        self._propagator = TraceContextTextMapPropagator()
        trace_calls(self._headers)

    def rpc(self, service: str, method: str, metadata: Sequence[tuple[str, Any]]) -> "OtlpRpcSpan":
        """Begins the span of a call, below the caller's one if its metadata name one."""
        carrier = {key: value for key, value in metadata if key in PROPAGATED}
        parent = self._propagator.extract(carrier, context=contexts.Context())
        call = CURRENT_CALL.get()
        attributes = {"rpc.system": "grpc", "rpc.service": service, "rpc.method": method}
        if call is not None:
            attributes["omnialign.request_id"] = call.request_id
        span = self._tracer.start_span(
            f"{service}/{method}", context=parent, kind=SpanKind.SERVER, attributes=attributes
        )
        return OtlpRpcSpan(span)

    @contextlib.contextmanager
    def span(self, name: str, *, is_root: bool, attributes: Attributes) -> Iterator[None]:
        """A span around a block."""
        parent = contexts.Context() if is_root else None
        named: Mapping[str, Any] = {f"omnialign.{key}": value for key, value in attributes.items()}
        with self._tracer.start_as_current_span(name, context=parent, attributes=named):
            yield

    def trace_id(self) -> str:
        """Id of the current trace in hexadecimal; empty outside one."""
        found = trace.get_current_span().get_span_context()
        return trace.format_trace_id(found.trace_id) if found.is_valid else ""

    def close(self) -> None:
        """Sends what is left, but does not wait long for a collector that is away: a pod has seconds to end in."""
        trace_calls(None)
        closing = threading.Thread(target=self._provider.shutdown, name="tracing-close", daemon=True)
        closing.start()
        closing.join(CLOSE_SECONDS)

    def _headers(self) -> tuple[tuple[str, str], ...]:
        carrier: dict[str, str] = {}
        self._propagator.inject(carrier)
        return tuple(carrier.items())


class OtlpRpcSpan:
    """The span of a call: the current one in the call's task until it ends."""

    def __init__(self, span: trace.Span) -> None:
        self._span = span
        self._token = contexts.attach(trace.set_span_in_context(span))

    def end(self, code: str, reason: str) -> None:
        """Ends it with the call's status code and the reason of its error, empty for none."""
        contexts.detach(self._token)
        self._span.set_attribute("rpc.grpc.status_code", getattr(grpc.StatusCode, code).value[0])
        if reason:
            self._span.set_attribute("error.type", reason)
        if code in SERVER_FAULTS:
            self._span.set_status(Status(StatusCode.ERROR, reason or code))
        self._span.end()


def _credentials(config: TracingConfig) -> grpc.ChannelCredentials | None:
    if not config.ca_file:
        return None
    return grpc.ssl_channel_credentials(root_certificates=Path(config.ca_file).read_bytes())
