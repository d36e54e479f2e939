"""A proxy that forwards calls as bytes, without parsing anything.

A call keeps its deadline, request id, token and trace. The services behind authenticate it, validate it and answer; an
error passes with all its details. Messages flow one at a time in both directions, so a slow reader slows the writer.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import grpc

from omnialign.client.transport import as_error

FORWARDED = frozenset({"authorization", "traceparent", "tracestate", "x-request-id"})
"""Metadata that is forwarded; the rest belongs to one connection."""


class Proxy(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Answers the methods in `channels`, which are keyed by path: only those of the contract, so that made-up
    names cannot make this process keep a handler for each.
    """

    def __init__(self, channels: Mapping[str, Any]) -> None:
        self._channels = channels

    def service(self, details: Any) -> Any:
        """The handler of a call; None, which is UNIMPLEMENTED, for a method that is not behind this gateway."""
        path: str = details.method
        channel = self._channels.get(path)
        if channel is None:
            return None
        return grpc.stream_stream_rpc_method_handler(_forwarder(channel, path, path.split("/")[1]))


def _forwarder(channel: Any, path: str, name: str) -> Callable[[AsyncIterator[bytes], Any], AsyncIterator[bytes]]:
    """The handler of one method. On the wire every call is two streams of messages, whatever the kind of its method."""
    method = channel.stream_stream(path)

    async def forward(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        call = method(timeout=context.time_remaining(), metadata=_metadata(context))
        writer = asyncio.create_task(_write(requests, call))
        try:
            async for response in call:
                yield response
        except grpc.aio.AioRpcError as failure:
            raise as_error(failure, address=name) from None
        finally:
            call.cancel()
            # Until it has stopped, nobody else may read the caller's messages, and an error waits for them to be read.
            writer.cancel()
            await asyncio.gather(writer, return_exceptions=True)

    return forward


async def _write(requests: AsyncIterator[bytes], call: Any) -> None:
    """Passes the caller's messages on until they end, the caller hangs up, or the call ends.

    Not left to gRPC, which cancels the call when a write meets its end, and so hides how it ended.
    """
    with contextlib.suppress(grpc.RpcError, grpc.aio.BaseError, asyncio.InvalidStateError):
        async for request in requests:
            await call.write(request)
        await call.done_writing()


def _metadata(context: Any) -> tuple[tuple[str, str], ...]:
    return tuple((key, value) for key, value in context.invocation_metadata() or () if key in FORWARDED)
