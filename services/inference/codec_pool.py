"""The threads that run codecs beside the model: conversations into model inputs, and token ids into answers.

Every engine has one pool. Decoding media takes processor time and memory, so the number of threads bounds both, and the
event loop never waits for it.
"""

import asyncio
import itertools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TypeVar

from omnialign.errors import OmnialignError
from omnialign.modeling.adapters import Adapter, encode_response
from omnialign.modeling.inputs import MediaPolicy, ModelInputs, Pieces
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

    async def encode_choices(self, adapter: Adapter, request: EngineRequest) -> "WeighedInputs | OmnialignError":
        """The model inputs of a request's prompt and of its choices, or what makes them unreadable."""
        return await self.run(lambda: _encode_choices(adapter, request))

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


@dataclass(frozen=True)
class WeighedInputs:
    """A prompt with what all choices begin with, and the ids that each choice ends with: at least one."""

    inputs: ModelInputs
    tails: tuple[list[int], ...]


def split_choices(
    adapter: Adapter, choices: Sequence[Pieces], policy: MediaPolicy
) -> tuple[list[int], list[list[int]]]:
    """The ids that all choices begin with, and those that each ends with: at least the end id."""
    answers = [adapter.encode_answer(choice, policy) for choice in choices]
    agreeing = itertools.takewhile(lambda column: len(set(column)) == 1, zip(*answers, strict=False))
    shared = min(sum(1 for _ in agreeing), min(map(len, answers)) - 1)
    return answers[0][:shared], [answer[shared:] for answer in answers]


def _encode_choices(adapter: Adapter, request: EngineRequest) -> WeighedInputs | OmnialignError:
    inputs = _encode(adapter, request)
    if isinstance(inputs, OmnialignError):
        return inputs
    try:
        shared, tails = split_choices(adapter, request.choices, request.policy)
    except OmnialignError as error:
        return error
    except Exception as error:  # as in `_encode`
        return prompt_unreadable(error)
    return WeighedInputs(replace(inputs, ids=[*inputs.ids, *shared]), tuple(tails))


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
