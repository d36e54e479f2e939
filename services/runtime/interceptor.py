"""The one interceptor of a server: everything that surrounds a handler, in this order, outermost first.

    request id and context -> metrics, access and audit log -> errors -> deadline -> authentication -> readiness
    -> first message -> authorization -> admission -> validation -> handler

Authentication is skipped where callers need no identity. A call takes its place among those in flight only once its
first message has come, so that silent streams keep nobody out. Messages arrive as bytes and are decoded here, because
gRPC would answer UNKNOWN to one that does not decode.

One object instead of a chain of six, because each link of a grpc.aio chain costs every call a coroutine and a handler;
here a method is wrapped once, on its first call, and the logic of each step lives in its own file.

A call runs in one task from beginning to end, so that the handler sees the context variables set here. Answers of a
stream are written from here, not yielded to gRPC, for the same reason: a cancelled call then closes the handler's
generator at once, in its own task, and not whenever the garbage collector finds it.
"""

import asyncio
import contextlib
import inspect
import time
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any, NamedTuple

import grpc
from google.protobuf.message import DecodeError
from grpc_status import rpc_status

from omnialign.client.context import CURRENT_CALL, Call
from omnialign.errors import DeadlineExceeded, InvalidArgument, OmnialignError, Unavailable
from services.runtime import tracing
from services.runtime.auth.guard import BearerCheck, Guard, MethodGuard
from services.runtime.errors import as_omnialign_error, rich_status
from services.runtime.health import Readiness
from services.runtime.limits import Places
from services.runtime.logs import AccessLog
from services.runtime.metrics import MethodMetrics, RpcMetrics
from services.runtime.request_stream import RequestStream
from services.runtime.requests import Validator

EXEMPT = ("/grpc.health.", "/grpc.reflection.")


class CallInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """Surrounds every handler but those of health and reflection."""

    def __init__(
        self,
        *,
        metrics: RpcMetrics,
        places: Places,
        first_message_seconds: float,
        validator: Validator,
        readiness: Readiness,
        guard: Guard | BearerCheck | None,
    ) -> None:
        self._metrics = metrics
        self._places = places
        self._first_message_seconds = first_message_seconds
        self._validator = validator
        self._readiness = readiness
        self.guard = guard
        self._handlers: dict[str, Any] = {}
        self._watches: set[asyncio.Task[Any]] = set()

    async def intercept_service(self, continuation: Any, details: Any) -> Any:
        """The handler of a call: the wrapped one, made on the first call of its method."""
        path: str = details.method
        known = self._handlers.get(path)
        if known is not None:
            return known
        # gRPC asks for the handler on every call; wrapping it each time would cost more than the rest of this class.
        handler = await continuation(details)
        if handler is None:
            self._metrics.count_unknown()
        elif not path.startswith(EXEMPT):
            handler = self._handlers[path] = self._wrap(handler, path)
        return handler

    def end_watches(self) -> None:
        """Ends the open Watch streams with UNAVAILABLE, as they would outlast any grace period; clients reconnect."""
        # Removed before they are cancelled: by that `_ending` tells them from calls that their clients cancelled.
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
            places=self._places,
            first_message_seconds=self._first_message_seconds,
            validator=self._validator,
            readiness=self._readiness,
            guard=self.guard.of_method(path) if self.guard else None,
            watches=lambda: self._watches,
        )
        make = {
            (False, False): grpc.unary_unary_rpc_method_handler,
            (False, True): grpc.unary_stream_rpc_method_handler,
            (True, False): grpc.stream_unary_rpc_method_handler,
            (True, True): grpc.stream_stream_rpc_method_handler,
        }[handler.request_streaming, handler.response_streaming]
        return make(calls.answer, None, _serializer(handler.response_serializer))


REQUEST_ID = "x-request-id"

_CODE_NAMES = {code.value[0]: code.name for code in grpc.StatusCode}


class Ending(NamedTuple):
    """How a call ended; `error` is what to send, None when there is nothing left to send."""

    code: str
    reason: str = ""
    error: OmnialignError | None = None


OK = Ending("OK")


class MethodCalls:
    """Answers the calls of one method."""

    def __init__(
        self,
        handler: Any,
        *,
        service: str,
        method: str,
        metrics: MethodMetrics,
        places: Places,
        first_message_seconds: float,
        validator: Validator,
        readiness: Readiness,
        guard: MethodGuard | BearerCheck | None,
        watches: Callable[[], set[asyncio.Task[Any]]],
    ) -> None:
        self._handle = handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
        _check_kind(self._handle, streams=handler.response_streaming)
        self._reads_stream = bool(handler.request_streaming)
        self._writes_stream = bool(handler.response_streaming)
        self._service, self._method, self._readiness = service, method, readiness
        self._guard = guard
        self._is_watch = method.startswith("Watch")
        self._log = AccessLog(service, method)
        self._metrics = metrics
        self._places = places
        self._first_message_seconds = first_message_seconds
        # A handler that takes bytes passes them on to a service that decodes and checks them.
        self._parse = handler.request_deserializer
        self._check = validator.check if self._parse else _unchecked
        self._watches = watches

    async def answer(self, request: Any, context: Any) -> Any:
        """Answers one call; this is what gRPC calls. `request` is bytes, or an iterator over them."""
        start = time.perf_counter()
        call = begin_call(context)
        span = tracing.rpc(self._service, self._method, context)
        self._metrics.started()
        if self._is_watch and call.task:
            self._watches().add(call.task)
        stream = RequestStream(request) if self._reads_stream else None
        ending = OK
        try:
            if stream is not None:
                return await self._answer_stream(stream, context, call)
            return await self._answer_one(request, context, call)
        # BaseException, because a call that is cancelled must be counted and logged like any other.
        except BaseException as problem:
            ending = self._ending(problem, context, call)
            if ending.error is None:
                raise
            if stream is not None:
                await stream.drain()
            await context.abort_with_status(rpc_status.to_status(rich_status(ending.error)))
        finally:
            call.finished = True
            self._finish(ending, context, call, time.perf_counter() - start)
            if stream is not None:
                await stream.close()
            if span is not None:
                span.end(ending.code, ending.reason)

    async def _answer_one(self, raw: bytes, context: Any, call: Call) -> Any:
        await self._identify(call)
        request = self._decode(raw)
        if self._guard is not None:
            self._guard.admit(call, request)
        self._readiness.require(self._service)
        with self._places.for_call(call):
            self._check(request)
            return await self._respond(request, context)

    async def _answer_stream(self, stream: RequestStream, context: Any, call: Call) -> Any:
        await self._identify(call)
        self._readiness.require(self._service)
        with self._places.while_silent(context.peer()):
            first = await stream.first(seconds=self._first_message_seconds)
        if self._guard is not None:
            self._guard.admit(call, None if first is None else self._decode(first))
        with self._places.for_call(call):
            return await self._respond(self._checked(stream, call), context)

    async def _identify(self, call: Call) -> None:
        # Cheap checks come first, and whoever may not call learns nothing of what is ready or valid.
        if call.deadline is not None and call.deadline <= time.monotonic():
            raise DeadlineExceeded(
                "The deadline had passed before the call began; allow more time", reason="DEADLINE_EXCEEDED"
            )
        if self._guard is not None:
            await self._guard.identify(call)

    async def _respond(self, request: Any, context: Any) -> Any:
        if not self._writes_stream:
            return await self._handle(request, context)
        # Closed here and now: a generator left to the garbage collector would hold its locks and files until then.
        async with contextlib.aclosing(self._handle(request, context)) as responses:
            async for response in responses:
                await (_write_whole(context, response) if self._is_watch else context.write(response))
                self._metrics.sent.inc()
        return None

    async def _checked(self, stream: RequestStream, call: Call) -> AsyncIterator[Any]:
        async for raw in stream:
            self._metrics.received.inc()
            message = self._decode(raw)
            if self._guard is not None:
                self._guard.admit_next(call, message)
            self._check(message)
            yield message

    def _decode(self, raw: bytes) -> Any:
        """Raises InvalidArgument (`REQUEST_UNDECODABLE`)."""
        if self._parse is None:
            return raw
        try:
            return self._parse(raw)
        except DecodeError:
            raise InvalidArgument(
                f"A message of {self._method} is not in its protobuf form; call with the omnialign.v1 contract",
                reason="REQUEST_UNDECODABLE",
                metadata={"method": f"{self._service}/{self._method}"},
            ) from None

    def _ending(self, problem: BaseException, context: Any, call: Call) -> Ending:
        """How a call ends whose handler raised `problem`."""
        if isinstance(problem, asyncio.CancelledError):
            if self._is_watch and call.task and call.task not in self._watches():  # taken out by `end_watches`
                call.task.uncancel()  # otherwise the first await of the error path would be cancelled again
                draining = Unavailable("The server is shutting down; reconnect", reason="SERVER_DRAINING")
                return Ending("UNAVAILABLE", draining.reason, draining)
            return Ending("DEADLINE_EXCEEDED" if call.remaining_seconds() == 0 else "CANCELLED")
        if isinstance(problem, grpc.aio.AbortError):
            return Ending((context.code() or grpc.StatusCode.UNKNOWN).name)
        if isinstance(problem, grpc.aio.BaseError) or not isinstance(problem, Exception):
            return Ending("CANCELLED")  # the client went away while an answer was written, or the process ends
        error = as_omnialign_error(problem)
        return Ending(_CODE_NAMES.get(error.code, "INTERNAL"), error.reason, error)

    def _finish(self, ending: Ending, context: Any, call: Call, seconds: float) -> None:
        if self._is_watch and call.task:
            self._watches().discard(call.task)
        self._metrics.finished(ending.code, seconds)
        if self._guard is not None:
            self._guard.write_audit(call, code=ending.code, reason=ending.reason, peer=context.peer())
        if self._log.wants(ending.code):
            self._log.write(
                code=ending.code,
                reason=ending.reason,
                seconds=seconds,
                peer=context.peer(),
                request=call.request_id,
            )


async def _write_whole(context: Any, response: Any) -> None:
    """Writes a message to its end, also when the call is cancelled meanwhile.

    A call whose write is cut short never gets its status out (grpcio 1.85): the drain would wait for it all its grace.
    """
    writing = asyncio.ensure_future(context.write(response))
    try:
        await asyncio.shield(writing)
    except asyncio.CancelledError:
        await asyncio.wait({writing})
        if not writing.cancelled():
            writing.exception()  # looked at, so that it is not logged; the call ends as cancelled
        raise


def _serializer(serialize: Callable[[Any], bytes] | None) -> Callable[[Any], bytes] | None:
    """Serialises what a handler answers with, unless that is a message in its binary form already."""
    if serialize is None:
        return None
    return lambda response: response if isinstance(response, bytes) else serialize(response)


def _unchecked(_message: bytes) -> None:
    """Raw bytes are not checked."""


def begin_call(context: Any) -> Call:
    """Starts the context of a call. A missing or malformed request id is replaced by a new one."""
    identity, authorization = "", ""
    for key, value in context.invocation_metadata() or ():
        if key == REQUEST_ID:
            identity = value
        elif key == "authorization":
            authorization = value
    if not 0 < len(identity) <= 128 or not identity.isprintable():
        identity = uuid.uuid4().hex
    remaining = context.time_remaining()
    # Kept as a moment: a remaining time would be out of date as soon as it is passed on to another service.
    deadline = None if remaining is None else time.monotonic() + remaining
    call = Call(identity, deadline, authorization, asyncio.current_task())
    CURRENT_CALL.set(call)
    return call


def _check_kind(handle: Any, *, streams: bool) -> None:
    """Raises TypeError for a handler that gRPC would run in its thread pool, outside the event loop."""
    if streams and not inspect.isasyncgenfunction(handle):
        raise TypeError(f"{handle!r} must be an async generator function")
    if not streams and not inspect.iscoroutinefunction(handle):
        raise TypeError(f"{handle!r} must be a coroutine function")
