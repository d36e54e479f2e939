"""Threads that translate beside the model: conversations into what a model is fed, and ids into answers.

Every engine has one. Decoding media takes processor time and memory, so the number of threads bounds both; the event
loop never waits for it.
"""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from omnialign.errors import Internal, OmnialignError
from omnialign.modeling.adapters import Adapter
from omnialign.modeling.inputs import ModelInputs, Pieces
from services.inference import stop_strings
from services.inference.engine import EngineRequest
from services.inference.errors import engine_closed

T = TypeVar("T")


class Translator:
    """Reads prompts and writes answers on `threads` threads. For use on one event loop."""

    def __init__(self, threads: int) -> None:
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="omnialign-codec")

    def close(self) -> None:
        """Ends the threads after what they are at; what waits for them fails with Unavailable ENGINE_CLOSED."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def read(self, adapter: Adapter, request: EngineRequest) -> ModelInputs | OmnialignError:
        """The prompt of a request, or why it cannot be read."""
        return await self.run(lambda: _read(adapter, request))

    async def write(self, adapter: Adapter, ids: Sequence[int], *, stop: Sequence[str]) -> Pieces | OmnialignError:
        """The answer that ids stand for, cut at the first stop text, or why it cannot be read."""
        return await self.run(lambda: _write(adapter, ids, stop))

    async def run(self, work: Callable[[], T]) -> T:
        """What `work` gives on a thread. Raises Unavailable ENGINE_CLOSED."""
        try:
            future = self._threads.submit(work)
        except RuntimeError as error:  # the pool's way to say that it was shut down
            raise engine_closed() from error
        return await asyncio.wrap_future(future)


def _read(adapter: Adapter, request: EngineRequest) -> ModelInputs | OmnialignError:
    try:
        return adapter.encode(request.turns, request.policy)
    except OmnialignError as error:
        return error
    except Exception as error:  # a codec met what nobody thought of: this request's trouble alone
        return Internal(f"The prompt cannot be read: {type(error).__name__}: {error}", reason="PROMPT_UNREADABLE")


def _write(adapter: Adapter, ids: Sequence[int], stop: Sequence[str]) -> Pieces | OmnialignError:
    try:
        return stop_strings.cut(adapter.decode(ids), stop)
    except OmnialignError as error:
        return error
    except Exception as error:  # a codec met what nobody thought of: this answer's trouble alone
        return Internal(f"The answer cannot be read: {type(error).__name__}: {error}", reason="ANSWER_UNREADABLE")
