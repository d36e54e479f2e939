"""How calls are made: deadline, request id, token, typed errors and retries, the same for every method.

A deadline covers a call with all its retries. A call made while another is being answered takes no longer than that one
has left, and carries its request id.
"""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message
from grpc_status import rpc_status

from omnialign.client.channel import Tls, open_channel, split_address
from omnialign.client.context import inherited_seconds, request_id, trace_headers
from omnialign.client.handshake import tls_problem
from omnialign.client.retry import MAX_ATTEMPTS, RetryBudget, backoff_seconds
from omnialign.errors import BY_CODE, DeadlineExceeded, OmnialignError, Unavailable, from_status

T = TypeVar("T")

Messages = Callable[[], AsyncIterator[Message]]
Token = str | Callable[[], str]
"""A bearer token, or what is asked for it before each call."""


class Transport:
    """One channel to one address."""

    def __init__(self, address: str, *, token: Token | None, deadline_seconds: float, tls: Tls | None = None) -> None:
        self.address, how = split_address(address, tls)
        self.is_secure = how is not None
        self.channel: Any = open_channel(self.address, how)
        self._token = token
        self._deadline_seconds = deadline_seconds
        self._budget = RetryBudget()

    async def close(self) -> None:
        """Closes the channel; calls in flight are cancelled."""
        await self.channel.close()

    async def unary(
        self,
        method: Callable[..., Awaitable[T]],
        request: Message,
        *,
        idempotent: bool = True,
        deadline_seconds: float | None = None,
    ) -> T:
        """One request, one answer."""
        metadata, expiry = self._metadata(), self._expiry(deadline_seconds or self._deadline_seconds)
        attempt = 1
        while True:
            try:
                answer = await method(request, timeout=_timeout(expiry), metadata=metadata)
            except grpc.aio.AioRpcError as failure:
                await self._retry(failure, attempt, expiry, allowed=idempotent)
                attempt += 1
            else:
                self._budget.succeeded()
                return answer

    async def stream(
        self,
        method: Callable[..., Any],
        request: Message,
        *,
        idempotent: bool = True,
        deadline_seconds: float | None = None,
    ) -> AsyncIterator[Any]:
        """One request, many answers; no deadline unless given. Tried again only before the first answer.

        Ending the iteration early, or cancelling the task that iterates, cancels the call.
        """
        metadata, expiry = self._metadata(), self._expiry(deadline_seconds)
        attempt, begun = 1, False
        while True:
            call = method(request, timeout=_timeout(expiry), metadata=metadata)
            try:
                async for answer in call:
                    begun = True
                    yield answer
                self._budget.succeeded()
                return
            except grpc.aio.AioRpcError as failure:
                await self._retry(failure, attempt, expiry, allowed=idempotent and not begun)
                attempt += 1
            finally:
                call.cancel()

    async def upload(
        self,
        method: Callable[..., Any],
        messages: Messages,
        *,
        idempotent: bool = True,
        deadline_seconds: float | None = None,
    ) -> Any:
        """Many requests, one answer. `messages` is called once per try; what it raises cancels the call and passes."""
        metadata, expiry = self._metadata(), self._expiry(deadline_seconds)
        attempt = 1
        while True:
            call = method(timeout=_timeout(expiry), metadata=metadata)
            try:
                answer = await _send(call, messages())
                self._budget.succeeded()
                return answer
            except grpc.aio.AioRpcError as failure:
                await self._retry(failure, attempt, expiry, allowed=idempotent)
                attempt += 1
            finally:
                call.cancel()

    async def _retry(self, failure: grpc.aio.AioRpcError, attempt: int, expiry: float | None, *, allowed: bool) -> None:
        """Waits for the next try, or raises the error when there is none."""
        error = as_error(failure, address=self.address, is_secure=self.is_secure)
        may_retry = isinstance(error, Unavailable) and self._budget.failed() and allowed and attempt < MAX_ATTEMPTS
        pause = backoff_seconds(attempt)
        if not may_retry or (expiry is not None and time.monotonic() + pause >= expiry):
            raise error from None
        await asyncio.sleep(pause)

    def _metadata(self) -> tuple[tuple[str, str], ...]:
        metadata = (("x-request-id", request_id() or uuid.uuid4().hex), *trace_headers())
        if self._token is None:
            return metadata
        token = self._token if isinstance(self._token, str) else self._token()
        return (*metadata, ("authorization", f"Bearer {token}"))

    def _expiry(self, seconds: float | None) -> float | None:
        """The moment on the monotonic clock at which a call that begins now must end; None for never."""
        bounds = [bound for bound in (seconds, inherited_seconds()) if bound is not None]
        return time.monotonic() + min(bounds) if bounds else None


def as_error(failure: grpc.aio.AioRpcError, *, address: str, is_secure: bool = False) -> OmnialignError:
    """The typed error that a failed call means; `address` tells which service could not be reached."""
    try:
        status = rpc_status.from_call(failure)
    except (ValueError, DecodeError):  # the details contradict the status: trust the status
        status = None
    if status is not None:
        return from_status(status)
    code, details = failure.code().value[0], failure.details() or failure.code().name
    if failure.code() is grpc.StatusCode.UNAVAILABLE and (problem := tls_problem(details, is_secure=is_secure)):
        reason, sentence = problem
        return Unavailable(sentence.format(address), reason=reason, metadata={"address": address, "cause": details})
    return BY_CODE.get(code, OmnialignError)(details, metadata={"address": address})


def _timeout(expiry: float | None) -> float | None:
    if expiry is None:
        return None
    remaining = expiry - time.monotonic()
    if remaining <= 0:
        raise DeadlineExceeded("The deadline passed before the call was made", reason="DEADLINE_EXCEEDED")
    return remaining


async def _send(call: Any, messages: AsyncIterator[Message]) -> Any:
    """Writes `messages` and awaits the answer. Not gRPC's own iteration: that hides what the iterator raises."""
    async for message in messages:
        try:
            await call.write(message)
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            break  # the server has answered already: awaiting the call tells what
    else:
        if not call.done():
            await call.done_writing()
    return await call
