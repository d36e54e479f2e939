"""Asking again what could not be read, within the budget of a request."""

from collections.abc import AsyncGenerator, Collection
from contextlib import aclosing
from typing import Any, TypeVar

from services.inference.item_loop import ItemLoop, ItemT, ResultT, Task, derived_seed
from services.judge.metrics import JudgeMetrics

RequestT = TypeVar("RequestT", bound=Any)

MAX_RETRIES = 2
"""How often an item is asked again, where a request does not say."""
RETRY_TEMPERATURE = 0.5
"""Temperature at which an item is asked again after a greedy answer, which would only be repeated."""


class Retries:
    """Runs the items of a request, and asks again those whose answer could not be read."""

    def __init__(self, loop: ItemLoop, metrics: JudgeMetrics) -> None:
        self._loop, self._metrics = loop, metrics

    async def run(self, request: RequestT, task: Task[ItemT, ResultT], *, method: str) -> AsyncGenerator[ResultT, None]:
        """The results of all items; the second round begins when the first has ended. `method` is for the metrics."""
        retries = request.max_retries if request.HasField("max_retries") else MAX_RETRIES
        asked, attempt = request, 0
        while asked.items:
            attempt += 1
            abstained = set()
            async with aclosing(self._loop.run(asked, task)) as results:
                async for result in results:
                    self._metrics.count(method, result)
                    result.attempts = attempt
                    if result.HasField("abstention") and attempt <= retries:
                        abstained.add(result.id)
                    else:
                        yield result
            asked = once_more(request, abstained, attempt=attempt + 1)


def once_more(request: RequestT, ids: Collection[str], *, attempt: int) -> RequestT:
    """The request for these items alone, with a seed that each has for this attempt, and no longer greedy."""
    again: RequestT = type(request)()
    again.CopyFrom(request)
    del again.items[:]
    again.items.extend(item for item in request.items if item.id in ids)
    for item in again.items:
        item.seed = derived_seed(item.seed, purpose=f"attempt {attempt}")
    again.sampling.temperature = request.sampling.temperature or RETRY_TEMPERATURE
    return again
