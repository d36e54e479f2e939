"""The server call that the current code is answering, if any: what the calls it makes in turn must know of it.

The request id follows the work wherever it goes, background tasks included, so that one id finds all log lines. The
deadline does not: only the handler's own task inherits it, because a task that the handler starts may outlive the call
(a job does), and must not die of its creator's deadline. Code that shares work among child tasks while the caller
waits passes `deadline_seconds=` itself.
"""

import asyncio
import time
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any


@dataclass(slots=True, eq=False)
class Call:
    """One call being answered. `deadline` is on the clock of `time.monotonic`, None for none.

    `caller` and `resource` are who calls and the name of what the call is about, once both are known to be allowed;
    where callers need not say who they are, they stay empty.
    """

    request_id: str
    deadline: float | None
    authorization: str
    task: asyncio.Task[Any] | None
    finished: bool = False
    caller: Any = None
    resource: str = ""

    def remaining_seconds(self) -> float | None:
        """Time left, 0 when it is up; None without a deadline or when the call is over."""
        if self.deadline is None or self.finished:
            return None
        return max(self.deadline - time.monotonic(), 0.0)


CURRENT_CALL: ContextVar[Call | None] = ContextVar("omnialign_current_call", default=None)


TraceHeaders = Callable[[], tuple[tuple[str, str], ...]]

_trace_headers: TraceHeaders = tuple


def trace_calls(headers: TraceHeaders | None) -> None:
    """Adds to the metadata of every call what `headers` returns then, such as W3C's `traceparent`; None ends that.

    This is all that the client knows of tracing, so that it needs no library for it.
    """
    global _trace_headers
    _trace_headers = headers or tuple


def trace_headers() -> tuple[tuple[str, str], ...]:
    """Metadata that ties a call made now to the trace of the current work; empty without tracing."""
    return _trace_headers()


def request_id() -> str:
    """Id of the request that the current work belongs to; empty outside one."""
    call = CURRENT_CALL.get()
    return call.request_id if call else ""


def inherited_seconds() -> float | None:
    """Time that a call made now may take at most, given the one being answered; None for no bound."""
    call = CURRENT_CALL.get()
    if call is None or call.deadline is None or call.task is not asyncio.current_task():
        return None
    return call.remaining_seconds()
