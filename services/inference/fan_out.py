"""Requests of several models in one call: each model's run by itself, the results in the order they come."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence

from services.inference.engine import EngineRequest, EngineResult
from services.inference.faults import first_error

Deliver = Callable[[EngineResult], None]
Run = Callable[[str, Sequence[EngineRequest], Deliver], Awaitable[None]]
"""Runs the requests of one model and delivers one result for each; raises what concerns all of them."""


async def fan_out(requests: Sequence[EngineRequest], run: Run) -> AsyncGenerator[EngineResult, None]:
    """One result per request, as each finishes. Closing it cancels what still runs; what `run` raises ends all."""
    by_model: dict[str, list[EngineRequest]] = defaultdict(list)
    for request in requests:
        by_model[request.model].append(request)
    results: asyncio.Queue[EngineResult | BaseException] = asyncio.Queue()
    tasks = [asyncio.create_task(_guarded(run, model, group, results)) for model, group in by_model.items()]
    try:
        for _ in requests:
            result = await results.get()
            if isinstance(result, BaseException):
                raise result
            yield result
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _guarded(
    run: Run, model: str, requests: Sequence[EngineRequest], results: asyncio.Queue[EngineResult | BaseException]
) -> None:
    try:
        await run(model, requests, results.put_nowait)
    except BaseExceptionGroup as errors:
        results.put_nowait(first_error(errors))
    except Exception as error:  # raised in `fan_out`, which waits for it
        results.put_nowait(error)
