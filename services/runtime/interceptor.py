"""The one interceptor of a server: everything that surrounds a handler, in this order, outermost first.

    request id and context -> metrics, access and audit log -> errors -> deadline -> authentication -> authorization
    -> readiness -> admission -> validation -> handler

Authentication comes before readiness and is skipped where callers need no identity. A client stream is authorized by
its first message, after admission.

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
from grpc_status import rpc_status

from omnialign.client.context import CURRENT_CALL, Call
from omnialign.errors import DeadlineExceeded, OmnialignError, Unavailable
from services.runtime import tracing
from services.runtime.auth.guard import Guard, MethodGuard
from services.runtime.errors import as_omnialign_error, rich_status
from services.runtime.health import Readiness
from services.runtime.limits import ConcurrencyLimit
from services.runtime.logs import AccessLog
from services.runtime.metrics import MethodMetrics, RpcMetrics
from services.runtime.requests import Validator

EXEMPT = ("/grpc.health.", "/grpc.reflection.")


class CallInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """Surrounds every handler but those of health and reflection."""

    def __init__(
        self,
        *,
        metrics: RpcMetrics,
        admission: ConcurrencyLimit,
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
        admission: ConcurrencyLimit,
        validator: Validator,
        readiness: Readiness,
        guard: MethodGuard | None,
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
        self._admission = admission
        # A handler that takes bytes passes them on to a service that checks them.
        self._check = validator.check if handler.request_deserializer else _unchecked
        self._watches = watches

    async def answer(self, request: Any, context: Any) -> Any:
        """Answers one call; this is what gRPC calls."""
        start = time.perf_counter()
        call = begin_call(context)
        span = tracing.rpc(self._service, self._method, context)
        self._metrics.started()
        if self._is_watch and call.task:
            self._watches().add(call.task)
        ending = OK
        try:
            return await self._admitted(request, context, call)
        # BaseException, because a call that is cancelled must be counted and logged like any other.
        except BaseException as problem:
            ending = self._ending(problem, context, call)
            if ending.error is None:
                raise
            if self._reads_stream:
                await drain_request(request)
            await context.abort_with_status(rpc_status.to_status(rich_status(ending.error)))
        finally:
            call.finished = True
            self._finish(ending, context, call, time.perf_counter() - start)
            if span is not None:
                span.end(ending.code, ending.reason)

    async def _admitted(self, request: Any, context: Any, call: Call) -> Any:
        # Cheap checks come first, and whoever may not call learns nothing of what is ready or valid.
        if call.deadline is not None and call.deadline <= time.monotonic():
            raise DeadlineExceeded(
                "The deadline had passed before the call began; allow more time", reason="DEADLINE_EXCEEDED"
            )
        if self._guard is not None:
            await self._guard.identify(call)
            if not self._reads_stream:
                self._guard.admit(call, request)
        self._readiness.require(self._service)
        self._admission.enter()
        try:
            if self._reads_stream:
                # The first message may take long to arrive, so the call counts as in flight while it waits.
                request = self._checked(await self._guard.admit_stream(call, request) if self._guard else request)
            else:
                self._check(request)
            if self._writes_stream:
                return await self._write(request, context)
            return await self._handle(request, context)
        finally:
            self._admission.leave()

    async def _write(self, request: Any, context: Any) -> None:
        # Closed here and now: a generator left to the garbage collector would hold its locks and files until then.
        async with contextlib.aclosing(self._handle(request, context)) as responses:
            async for response in responses:
                await context.write(response)
                self._metrics.sent.inc()

    async def _checked(self, requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        async for request in requests:
            self._metrics.received.inc()
            self._check(request)
            yield request

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


MAX_DRAIN_BYTES = 64 * 1024 * 1024
MAX_DRAIN_SECONDS = 5.0


async def drain_request(messages: AsyncIterator[Any]) -> None:
    """Reads on a request stream whose call was refused, until its client has written everything.

    A grpc.aio client whose write meets an ended call reports INTERNAL instead of the status that the server sent. A
    client that writes more than `MAX_DRAIN_BYTES`, or for longer than `MAX_DRAIN_SECONDS`, is not waited for.
    """
    size_bytes = 0
    try:
        async with asyncio.timeout(MAX_DRAIN_SECONDS):
            async for message in messages:
                # The gateway's handlers read raw bytes, all others read messages.
                size_bytes += len(message) if isinstance(message, bytes) else message.ByteSize()
                if size_bytes > MAX_DRAIN_BYTES:
                    return
    except TimeoutError:
        return
    except RuntimeError:
        # "asynchronous generator is already running": the gateway handed the stream to the call behind it, whose task
        # has been cancelled but has not stopped reading yet.
        return
