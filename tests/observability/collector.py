"""An OTLP collector that keeps the spans it is sent: a real gRPC server, in the test's own loop."""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.trace.v1.trace_pb2 import Span

SECONDS = 30.0


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Keeps every span, with the attributes of its resource."""

    def __init__(self) -> None:
        self.address = ""
        self.spans: list[Span] = []
        self.resources: list[dict[str, str]] = []
        self._came = asyncio.Event()

    async def Export(self, request: Any, context: Any) -> Any:  # noqa: N802
        for resource_spans in request.resource_spans:
            self.resources.append({a.key: a.value.string_value for a in resource_spans.resource.attributes})
            for scope_spans in resource_spans.scope_spans:
                self.spans += scope_spans.spans
        self._came.set()
        self._came = asyncio.Event()
        return trace_service_pb2.ExportTraceServiceResponse()

    def traces(self) -> dict[bytes, list[Span]]:
        """The spans by trace."""
        found: dict[bytes, list[Span]] = defaultdict(list)
        for span in self.spans:
            found[span.trace_id].append(span)
        return dict(found)

    async def until(self, condition: Callable[["Collector"], bool]) -> None:
        """Returns once `condition` holds."""
        async with asyncio.timeout(SECONDS):
            while not condition(self):
                came = self._came
                if not condition(self):
                    await came.wait()


def attributes(span: Span) -> dict[str, Any]:
    """The attributes of a span as plain values."""
    return {a.key: getattr(a.value, a.value.WhichOneof("value")) for a in span.attributes}


@contextlib.asynccontextmanager
async def running_collector() -> AsyncIterator[Collector]:
    """A collector that listens while the block runs."""
    collector, server = Collector(), grpc.aio.server()
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, server)
    collector.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    try:
        yield collector
    finally:
        await server.stop(0)
