"""How RPCs are made: deadline, request id, token, typed errors and retries, the same for every method.

A deadline covers a call with all its retries. A call made while a server is answering another one carries that one's
request id, and takes no longer than it has left.

A failed call is retried only if it found the service UNAVAILABLE and may safely run twice. All calls of a client share
a retry budget, so that a service that is down does not get four times the load.
"""

import asyncio
import copy
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message
from grpc_status import rpc_status

from omnialign.client.channel import Options, open_channel, split_address
from omnialign.client.context import inherited_seconds, request_id, trace_headers
from omnialign.client.credentials import Tls, Token, diagnose_handshake
from omnialign.errors import BY_CODE, DeadlineExceeded, OmnialignError, Unavailable, from_status
from omnialign.retry import RetryBudget, RetryPolicy, RetryState

T = TypeVar("T")

Messages = Callable[[], AsyncIterator[Message]]
"""Produces the messages of an upload, from the start, once per attempt."""

MAX_ATTEMPTS = 4
CALL_RETRIES = RetryPolicy(base_seconds=0.1, cap_seconds=1.0, jitter=0.3, max_attempts=MAX_ATTEMPTS)
"""Retries of one call. Short, as a person or another service is waiting; a watch has patience of its own."""
RESTART_RETRIES = RetryPolicy(base_seconds=0.2, cap_seconds=2.0, jitter=0.3, budget_seconds=60.0)
"""Retries of a call whose service was there a moment ago, and so is being restarted: one that broke after it had begun,
or part of a transfer, which takes long anyway."""
RESTARTING = ("CONNECTION_BROKEN", "UNAVAILABLE", "NOT_READY", "SERVER_DRAINING")
"""Reasons of errors that a restart causes; UNAVAILABLE is gRPC's own."""


BROKEN_WORDS = ("Internal error from Core", "RST_STREAM", "Stream removed")
"""What gRPC says, as INTERNAL or UNKNOWN, of calls whose server went away. The first means that a write met the end."""


class Transport:
    """Calls methods over one channel to one address."""

    def __init__(
        self,
        address: str,
        *,
        token: Token | None,
        deadline_seconds: float,
        tls: Tls | None = None,
        waits_for_restarts: bool = True,
        options: Options = (),
    ) -> None:
        self.address, tls = split_address(address, tls)
        self.is_secure = tls is not None
        self.channel: Any = open_channel(self.address, tls, options)
        self._token = token
        self._deadline_seconds = deadline_seconds
        self._budget = RetryBudget()
        self._waits, self._was_reached = waits_for_restarts, False

    def with_token(self, token: Token | None) -> "Transport":
        """The same channel with the token of another caller. It is not to be closed: it ends with this one."""
        other = copy.copy(self)
        other._token = token
        return other

    async def close(self) -> None:
        """Closes the channel; calls in flight are cancelled."""
        await self.channel.close()

    def retries(self, *, is_transfer: bool) -> RetryState:
        """The retries of a call that begins. A service that this client has never reached is not waited for."""
        return (RESTART_RETRIES if is_transfer and self._waits and self._was_reached else CALL_RETRIES).start()

    async def unary(
        self,
        method: Callable[..., Awaitable[T]],
        request: Message,
        *,
        idempotent: bool = True,
        is_transfer: bool = False,
        deadline_seconds: float | None = None,
    ) -> T:
        """Sends one request and returns the response. A part of a transfer waits for a service that restarts."""
        # Metadata is made once, so that all attempts carry the same request id. The deadline becomes a moment in time
        # here, so that each attempt gets only what the earlier ones left.
        retries = self.retries(is_transfer=is_transfer)
        least_seconds = RESTART_RETRIES.budget_seconds if retries.policy is RESTART_RETRIES else 0.0
        deadline_seconds = deadline_seconds or max(self._deadline_seconds, least_seconds)
        metadata, expiry = self._metadata(), self._expiry(deadline_seconds)
        while True:
            try:
                response = await method(request, timeout=_timeout(expiry), metadata=metadata)
            except grpc.aio.AioRpcError as failure:
                await self._pause_or_raise(failure, retries, expiry, allowed=idempotent)
            else:
                self._succeeded()
                return response

    async def stream(
        self,
        method: Callable[..., Any],
        request: Message,
        *,
        idempotent: bool = True,
        deadline_seconds: float | None = None,
        on_restart: Callable[[], object] | None = None,
        position: Callable[[], object] | None = None,
    ) -> AsyncGenerator[Any, None]:
        """Sends one request and yields the responses; no deadline unless given.

        Leaving the iteration early, or cancelling the task that iterates, cancels the call. A second attempt starts
        from the first response. Once the caller has seen that one, it would see it twice, so there is none unless
        `on_restart` tells the caller, who then forgets or skips what it has seen, or has the request name what is left.

        A service that restarts is waited for anew once an attempt has got farther than those before: in number of
        responses, or where the caller says what its `position` is.
        """
        metadata, expiry = self._metadata(), self._expiry(deadline_seconds)
        retries, num_responses, farthest = self.retries(is_transfer=on_restart is not None), 0, 0
        reached = position() if position is not None else None
        while True:
            num_responses = 0
            call = method(request, timeout=_timeout(expiry), metadata=metadata)
            try:
                async for response in call:
                    num_responses += 1
                    self._was_reached = True
                    yield response
                self._succeeded()
                return
            except grpc.aio.AioRpcError as failure:
                # Patience anew only for one that got farther than before: else what breaks it is in the stream itself.
                before, reached = reached, position() if position is not None else None
                if reached != before or (position is None and num_responses > farthest):
                    retries, farthest = RESTART_RETRIES.start(), num_responses
                is_allowed = idempotent and (not num_responses or on_restart is not None)
                await self._pause_or_raise(failure, retries, expiry, allowed=is_allowed)
                if num_responses and on_restart is not None:
                    on_restart()
            finally:
                call.cancel()  # has no effect on a call that has ended

    async def upload(
        self,
        method: Callable[..., Any],
        messages: Messages,
        *,
        idempotent: bool = True,
        deadline_seconds: float | None = None,
    ) -> Any:
        """Sends the messages and returns the one response; no deadline unless given.

        `messages` is called once per attempt. An exception that it raises cancels the call and reaches the caller.
        """
        metadata, expiry = self._metadata(), self._expiry(deadline_seconds)
        retries, num_sent, farthest = self.retries(is_transfer=idempotent), 0, 0

        async def counted() -> AsyncIterator[Message]:
            nonlocal num_sent
            async for message in messages():
                yield message
                num_sent += 1
                self._was_reached = True

        while True:
            num_sent = 0
            call = method(timeout=_timeout(expiry), metadata=metadata)
            try:
                response = await _send(call, counted())
                self._succeeded()
                return response
            except grpc.aio.AioRpcError as failure:
                if num_sent > farthest:
                    retries, farthest = RESTART_RETRIES.start(), num_sent
                await self._pause_or_raise(failure, retries, expiry, allowed=idempotent)
            finally:
                # An upload that is neither finished nor cancelled leaves the server waiting for its next message.
                call.cancel()

    async def converse(self, method: Callable[..., Any], messages: Messages) -> AsyncIterator[Any]:
        """Sends messages and yields the responses that come meanwhile. No deadline, and one attempt.

        An exception that `messages` raises cancels the call and reaches the caller.
        """
        call = method(metadata=self._metadata())
        writing = asyncio.create_task(_write(call, messages()))
        writing.add_done_callback(lambda done: done.cancelled() or not done.exception() or call.cancel())
        try:
            async for response in call:
                self._was_reached = True
                yield response
            await writing
            self._succeeded()
        except (grpc.aio.AioRpcError, asyncio.CancelledError) as failure:
            if writing.done() and not writing.cancelled() and (error := writing.exception()):
                raise error from None
            if isinstance(failure, grpc.aio.AioRpcError):
                raise as_error(failure, address=self.address, is_secure=self.is_secure) from None
            raise
        finally:
            writing.cancel()
            call.cancel()
            await asyncio.gather(writing, return_exceptions=True)

    def _succeeded(self) -> None:
        self._was_reached = True
        self._budget.succeeded()

    async def _pause_or_raise(
        self, failure: grpc.aio.AioRpcError, retries: RetryState, expiry: float | None, *, allowed: bool
    ) -> None:
        """Waits until the next attempt is due. Raises the typed error if there must not be one."""
        error = as_error(failure, address=self.address, is_secure=self.is_secure)
        # The budget comes before `allowed`: every UNAVAILABLE counts against it, of calls that are not retried too.
        is_restart = retries.policy is RESTART_RETRIES and error.reason in RESTARTING
        may_retry = isinstance(error, Unavailable) and (self._budget.failed() or is_restart) and allowed
        pause_seconds = retries.next_pause_seconds() if may_retry else None
        # A pause that ends after the deadline would replace this error by a DEADLINE_EXCEEDED that explains nothing.
        if pause_seconds is None or (expiry is not None and time.monotonic() + pause_seconds >= expiry):
            raise error from None
        await asyncio.sleep(pause_seconds)

    def _metadata(self) -> tuple[tuple[str, str], ...]:
        metadata = (("x-request-id", request_id() or uuid.uuid4().hex), *trace_headers())
        if self._token is None:
            return metadata
        token = self._token if isinstance(self._token, str) else self._token()
        return (*metadata, ("authorization", f"Bearer {token}"))

    def _expiry(self, deadline_seconds: float | None) -> float | None:
        """When a call that begins now must end, on the monotonic clock; None for never."""
        bounds = [bound for bound in (deadline_seconds, inherited_seconds()) if bound is not None]
        return time.monotonic() + min(bounds) if bounds else None


class ServiceCalls:
    """Base of the groups of calls that make up a client: the transport, the project, and lists in pages."""

    def __init__(self, transport: Transport, *, project: str) -> None:
        self._transport = transport
        self.project = project

    @property
    def parent(self) -> str:
        """`projects/{project}`, the parent of everything this client creates."""
        return f"projects/{self.project}"

    async def _pages(self, method: Callable[..., Awaitable[Any]], request: Any, *, items: str) -> AsyncIterator[Any]:
        """All items of a list, page by page; `items` names the field of the response that holds them."""
        while True:
            response = await self._transport.unary(method, request)
            for item in getattr(response, items):
                yield item
            if not response.next_page_token:  # the only sign of the last page: any page may be short, or empty
                return
            request.page_token = response.next_page_token


def as_error(failure: grpc.aio.AioRpcError, *, address: str, is_secure: bool = False) -> OmnialignError:
    """The typed error for a failed call to `address`."""
    try:
        status = rpc_status.from_call(failure)
    except (ValueError, DecodeError):  # the rich status contradicts the plain one: trust the plain one
        status = None
    if status is not None:
        return from_status(status)
    # Without a rich status, the error comes from gRPC itself or from a proxy in between, not from one of the services.
    code, details = failure.code().value[0], failure.details() or failure.code().name
    is_unavailable = failure.code() is grpc.StatusCode.UNAVAILABLE
    if is_unavailable and (problem := diagnose_handshake(details, is_secure=is_secure)):
        reason, sentence = problem
        return Unavailable(sentence.format(address), reason=reason, metadata={"address": address, "cause": details})
    if _is_broken(failure.code(), details):
        message = f"The connection to {address} broke during the call; try again"
        return Unavailable(message, reason="CONNECTION_BROKEN", metadata={"address": address, "cause": details})
    return BY_CODE.get(code, OmnialignError)(details, metadata={"address": address})


def _is_broken(code: grpc.StatusCode, details: str) -> bool:
    """Whether the server went away during the call. One that stops cancels the calls that are left."""
    if code in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN):
        return any(words in details for words in BROKEN_WORDS)
    return bool(code is grpc.StatusCode.CANCELLED)


def _timeout(expiry: float | None) -> float | None:
    if expiry is None:
        return None
    remaining = expiry - time.monotonic()
    # Raised here, as gRPC's own error for such a timeout would not say that the call was never made.
    if remaining <= 0:
        raise DeadlineExceeded(
            "The deadline passed before the call was made; allow it more time.", reason="DEADLINE_EXCEEDED"
        )
    return remaining


async def _send(call: Any, messages: AsyncIterator[Message]) -> Any:
    """Writes `messages` and returns the response."""
    await _write(call, messages)
    return await call


async def _write(call: Any, messages: AsyncIterator[Message]) -> None:
    """Writes `messages`, up to the end of the call.

    gRPC can iterate over the messages itself, but then only logs an exception of the iterator and cancels the call.
    """
    async for message in messages:
        try:
            await call.write(message)
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            # The server may answer, mostly with an error, before it has read everything. Writes fail from then on;
            # awaiting the call returns that response or raises that error.
            break
    else:
        # Half-close: tells the server that no message follows. On a call that has ended it would raise.
        if not call.done():
            await call.done_writing()
