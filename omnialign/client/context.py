"""The server call that the current code is answering, if any, and what outgoing calls inherit from it.

The request id follows the work wherever it goes, into background tasks too, so that one id finds every log line. The
deadline does not: only the handler's own task inherits it, because a task that the handler starts may outlive the call
(as a job does) and must not end at its creator's deadline. Code that spreads work over child tasks while the caller
waits passes `deadline_seconds` itself.
"""

import asyncio
import time
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any


@dataclass(slots=True, eq=False)
class Call:
    """One call that a server is answering."""

    request_id: str
    deadline: float | None
    """When the call must end, on the clock of `time.monotonic`; None if it has no deadline."""
    authorization: str
    task: asyncio.Task[Any] | None
    """The handler's task, the only one that inherits the deadline."""
    finished: bool = False
    caller: Any = None
    """Who calls, once authorized; None where callers need not identify themselves."""
    resource: str = ""
    """Name of the resource that the call is about, once authorized."""

    def remaining_seconds(self) -> float | None:
        """Time left, 0 if the deadline has passed; None without a deadline or once the call has ended."""
        if self.deadline is None or self.finished:
            return None
        return max(self.deadline - time.monotonic(), 0.0)


# Set once per call by the server. A task copies the context it is created in, which is how background tasks keep the
# request id; `Call.task` is what tells them from the handler.
CURRENT_CALL: ContextVar[Call | None] = ContextVar("omnialign_current_call", default=None)


TraceHeaders = Callable[[], tuple[tuple[str, str], ...]]

_trace_headers: TraceHeaders = tuple


def trace_calls(headers: TraceHeaders | None) -> None:
    """Adds the result of `headers`, such as W3C's `traceparent`, to the metadata of every call; None stops it.

    The client knows nothing else about tracing, and so needs no tracing library.
    """
    global _trace_headers
    _trace_headers = headers or tuple


def trace_headers() -> tuple[tuple[str, str], ...]:
    """Metadata that ties a call made now to the trace of the current work; empty without tracing."""
    return _trace_headers()


def request_id() -> str:
    """Id of the request that the current work belongs to; empty outside a request."""
    call = CURRENT_CALL.get()
    return call.request_id if call else ""


def inherited_seconds() -> float | None:
    """Longest time that a call made now may take because of the call being answered; None if unbounded."""
    call = CURRENT_CALL.get()
    if call is None or call.deadline is None or call.task is not asyncio.current_task():
        return None
    return call.remaining_seconds()
