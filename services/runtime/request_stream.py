"""The messages that a client sends in one call: waited for with a deadline, counted, and read to their end.

gRPC's own iterator ends for good when whoever waits for its next message is cancelled, and fails when two tasks read
it. Both happen where a call is handed on: the gateway's writer is cancelled in the middle of a read, and what it left
must still be read, because a client that is writing learns how its call ended only after that. Here the read goes on
when its waiter is cancelled, and the next waiter gets its message.
"""

import asyncio
from collections.abc import AsyncIterator

from omnialign.errors import DeadlineExceeded

MAX_DRAIN_BYTES = 64 * 1024 * 1024
MAX_DRAIN_SECONDS = 5.0
MAX_SILENCE_SECONDS = 1.0


class RequestStream:
    """The raw messages of one call, in order. Tasks may take turns at reading them."""

    def __init__(self, messages: AsyncIterator[bytes]) -> None:
        self._messages = aiter(messages)
        self._reading: asyncio.Task[bytes | None] | None = None
        """The read under way, or one that has ended and whose message nobody has taken yet."""

    def __aiter__(self) -> "RequestStream":
        return self

    async def __anext__(self) -> bytes:
        message = await self._wait()
        self._reading = None
        if message is None:
            raise StopAsyncIteration
        return message

    async def first(self, *, seconds: float) -> bytes | None:
        """The first message, None if the stream is empty; it stays in the stream.

        Raises DeadlineExceeded (`FIRST_MESSAGE_LATE`) when it does not come in time.
        """
        try:
            async with asyncio.timeout(seconds):
                return await self._wait()
        except TimeoutError:
            raise DeadlineExceeded(
                f"The first message of the call did not come within {seconds:g} s; send it when the call begins",
                reason="FIRST_MESSAGE_LATE",
                metadata={"seconds": f"{seconds:g}"},
            ) from None

    async def drain(self) -> None:
        """Reads on until the client has written everything, and drops it: for a call that was refused or has failed.

        A grpc.aio client whose write meets an ended call reports INTERNAL instead of the status that the server sent.
        A client that writes more than `MAX_DRAIN_BYTES` or for longer than `MAX_DRAIN_SECONDS`, or that writes nothing
        for `MAX_SILENCE_SECONDS`, is not waited for.
        """
        size_bytes = 0
        try:
            async with asyncio.timeout(MAX_DRAIN_SECONDS):
                while size_bytes <= MAX_DRAIN_BYTES:
                    async with asyncio.timeout(MAX_SILENCE_SECONDS):
                        size_bytes += len(await anext(self))
        except Exception:  # everything is read, the time is up or the client is gone: the call ends as it would have
            return

    async def close(self) -> None:
        """Ends a read under way, which nobody will take."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)

    async def _wait(self) -> bytes | None:
        if self._reading is None:
            self._reading = asyncio.create_task(self._read())
        # The result stays in `_reading` until it is taken, so a waiter that is cancelled here loses no message.
        return await asyncio.shield(self._reading)

    async def _read(self) -> bytes | None:
        return await anext(self._messages, None)
