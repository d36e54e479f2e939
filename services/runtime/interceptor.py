"""The one interceptor of a server: everything that surrounds a handler, in this order, outermost first.

    request id and context -> metrics, access and audit log -> errors -> deadline -> authentication -> authorisation
    -> readiness -> admission -> validation -> handler

Who calls is asked before readiness is told, and only if callers must say who they are at all. A client stream is
authorised by its first message, after admission.

One object instead of a chain of six, because each link of a grpc.aio chain costs every call a coroutine and a handler;
here a method is wrapped once, on its first call, and each step's own logic lives in its own file.
"""

import asyncio
from typing import Any

import grpc

from services.runtime.admission import Admission
from services.runtime.auth.guard import Guard
from services.runtime.calls import MethodCalls
from services.runtime.metrics import RpcMetrics
from services.runtime.readiness import Readiness
from services.runtime.validation import Validator

EXEMPT = ("/grpc.health.", "/grpc.reflection.")


class CallInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """Surrounds every handler but those of health and reflection."""

    def __init__(
        self,
        *,
        metrics: RpcMetrics,
        admission: Admission,
        validator: Validator,
        readiness: Readiness,
        guard: Guard | None,
    ) -> None:
        self._metrics = metrics
        self._admission = admission
        self._validator = validator
        self._readiness = readiness
        self._guard = guard
        self._handlers: dict[str, Any] = {}
        self._watches: set[asyncio.Task[Any]] = set()

    async def intercept_service(self, continuation: Any, details: Any) -> Any:
        """The handler of a call: the wrapped one, made on the first call of its method."""
        path: str = details.method
        known = self._handlers.get(path)
        if known is not None:
            return known
        handler = await continuation(details)
        if handler is None:
            self._metrics.count_unknown()
        elif not path.startswith(EXEMPT):
            handler = self._handlers[path] = self._wrap(handler, path)
        return handler

    def end_watches(self) -> None:
        """Ends the open Watch streams with UNAVAILABLE: they would outlast any grace, and their clients reconnect."""
        watches, self._watches = self._watches, set()
        for task in watches:
            task.cancel()

    def _wrap(self, handler: Any, path: str) -> Any:
        service, method = path.removeprefix("/").rsplit("/", 1)
        calls = MethodCalls(
            handler,
            service=service,
            method=method,
            metrics=self._metrics.of_method(service, method),
            admission=self._admission,
            validator=self._validator,
            readiness=self._readiness,
            guard=self._guard.of_method(path) if self._guard else None,
            watches=lambda: self._watches,
        )
        make = {
            (False, False): grpc.unary_unary_rpc_method_handler,
            (False, True): grpc.unary_stream_rpc_method_handler,
            (True, False): grpc.stream_unary_rpc_method_handler,
            (True, True): grpc.stream_stream_rpc_method_handler,
        }[handler.request_streaming, handler.response_streaming]
        return make(calls.answer, handler.request_deserializer, handler.response_serializer)
