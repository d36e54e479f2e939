"""The threads that run codecs beside the model: conversations into model inputs, and token ids into answers.

Every engine has one pool. Decoding media takes processor time and memory, so the number of threads bounds both, and the
event loop never waits for it.
"""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from omnialign.errors import OmnialignError
from omnialign.modeling.adapters import Adapter, encode_response
from omnialign.modeling.inputs import ModelInputs, Pieces
from services.inference import stop_strings
from services.inference.engine import EngineRequest
from services.inference.errors import answer_unreadable, engine_closed, prompt_unreadable

T = TypeVar("T")


class CodecPool:
    """Encodes prompts and decodes answers on `num_threads` threads. For use on one event loop."""

    def __init__(self, num_threads: int) -> None:
        self._threads = ThreadPoolExecutor(num_threads, thread_name_prefix="omnialign-codec")

    def close(self) -> None:
        """Ends the threads after their current work. Work that has not started fails with Unavailable ENGINE_CLOSED."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def encode(self, adapter: Adapter, request: EngineRequest) -> ModelInputs | OmnialignError:
        """The model inputs of a request's prompt, and of its answer if it has one, or what makes them unreadable."""
        return await self.run(lambda: _encode(adapter, request))

    async def decode(self, adapter: Adapter, ids: Sequence[int], *, stop: Sequence[str]) -> Pieces | OmnialignError:
        """The answer that `ids` stand for, up to the first stop string, or the error that makes it unreadable."""
        return await self.run(lambda: _decode(adapter, ids, stop))

    async def run(self, work: Callable[[], T]) -> T:
        """Calls `work` on a thread and returns its result. Raises Unavailable ENGINE_CLOSED."""
        try:
            future = self._threads.submit(work)
        except RuntimeError as error:  # how an executor says that it was shut down
            raise engine_closed() from error
        return await asyncio.wrap_future(future)


def _encode(adapter: Adapter, request: EngineRequest) -> ModelInputs | OmnialignError:
    # Errors are returned, not raised: one unreadable prompt must not fail the requests that came with it.
    try:
        if request.answer is None:
            return adapter.encode(request.turns, request.policy)
        return encode_response(adapter, request.turns, request.answer, request.policy)
    except OmnialignError as error:
        return error
    except Exception as error:  # a codec met something unforeseen, which concerns this request alone
        return prompt_unreadable(error)


def _decode(adapter: Adapter, ids: Sequence[int], stop: Sequence[str]) -> Pieces | OmnialignError:
    try:
        return stop_strings.cut(adapter.decode(ids), stop)
    except OmnialignError as error:
        return error
    except Exception as error:  # a codec met something unforeseen, which concerns this answer alone
        return answer_unreadable(error)
