"""The loop that every model service runs: items in, prompts to the engine, a result per item as it finishes.

A service says how an item becomes prompts and how answers become a result (`Task`); the loop does the rest. What is
the fault of an item fails that item; what would fail any item (the model, the data service, the queue) ends the call.
"""

import asyncio
import hashlib
from collections import Counter
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from omnialign.errors import DataLoss, FailedPrecondition, InvalidArgument, NotFound, OmnialignError
from omnialign.modeling.inputs import NO_BOUNDS, MediaPolicy
from omnialign.modeling.prompts import Rendered
from omnialign.v1 import content_pb2, generation_pb2
from services.inference.engine import Engine, EngineRequest, EngineResult
from services.inference.errors import first_error
from services.inference.media import AsyncMediaReader

ItemT = TypeVar("ItemT", bound=Any)
ResultT = TypeVar("ResultT", bound=Any)
ItemT_contra = TypeVar("ItemT_contra", bound=Any, contravariant=True)
ResultT_co = TypeVar("ResultT_co", bound=Any, covariant=True)

OF_THE_ITEM = (InvalidArgument, NotFound, FailedPrecondition, DataLoss)
"""Errors of fetching and storing media that the item has caused; the others are the surroundings' fault."""


@dataclass(frozen=True)
class Prompt:
    """One prompt of an item, with the seed of its own random stream and the schema of a JSON answer, if it has one."""

    rendered: Rendered
    seed: int
    json_schema: str = ""


class Task(Protocol[ItemT_contra, ResultT_co]):
    """What a service does with an item."""

    def contents(self, item: ItemT_contra) -> Iterable[content_pb2.Content]:
        """The messages whose media the prompts need."""
        ...

    def prompts(self, item: ItemT_contra, media: Mapping[str, bytes]) -> Sequence[Prompt]:
        """What to ask the model, by sha256 of the media. None at all is fine. May raise OmnialignError."""
        ...

    async def result(self, item: ItemT_contra, answers: Sequence[EngineResult]) -> ResultT_co:
        """The result, given the answers in the order of the prompts. Raises the error of an answer to fail the item."""
        ...

    def failure(self, item: ItemT_contra, error: OmnialignError) -> ResultT_co:
        """The result of an item that failed."""
        ...


@dataclass
class _Work(Generic[ItemT]):
    """An item on its way."""

    item: ItemT
    prompts: Sequence[Prompt]
    answers: list[EngineResult | None]

    @property
    def is_answered(self) -> bool:
        return all(answer is not None for answer in self.answers)


class ItemLoop:
    """Runs the items of requests on an engine; `media` reads what they hold and stores what they make."""

    def __init__(self, engine: Engine, media: AsyncMediaReader) -> None:
        self._engine, self.media = engine, media

    async def run(
        self,
        items: Sequence[ItemT],
        *,
        task: Task[ItemT, ResultT],
        model: str,
        sampling: generation_pb2.SamplingParams,
        policy: MediaPolicy = NO_BOUNDS,
    ) -> AsyncGenerator[ResultT, None]:
        """One result per item, as each finishes. Raises InvalidArgument ITEM_ID_REPEATED before any work."""
        check_ids(items)
        works, failures = await self._prepare(items, task)
        for failure in failures:
            yield failure
        results: asyncio.Queue[ResultT | BaseException] = asyncio.Queue()
        driver = asyncio.create_task(self._drive(works, task, _requests(works, model, sampling, policy), results))
        try:
            for _ in works:
                result = await results.get()
                if isinstance(result, BaseException):
                    raise result
                yield result
        finally:
            driver.cancel()
            await asyncio.gather(driver, return_exceptions=True)

    async def _prepare(
        self, items: Sequence[ItemT], task: Task[ItemT, ResultT]
    ) -> tuple[list[_Work[ItemT]], list[ResultT]]:
        """The items with their prompts, and the results of those that have none for their own fault."""
        found = await asyncio.gather(*(self._prompts(item, task) for item in items))
        works, failures = [], []
        for item, prompts in zip(items, found, strict=True):
            if isinstance(prompts, OmnialignError):
                failures.append(task.failure(item, prompts))
            else:
                works.append(_Work(item, prompts, [None] * len(prompts)))
        return works, failures

    async def _prompts(self, item: ItemT, task: Task[ItemT, ResultT]) -> Sequence[Prompt] | OmnialignError:
        try:
            return task.prompts(item, await self.media.fetch(task.contents(item)))
        except OF_THE_ITEM as error:
            return error

    async def _drive(
        self,
        works: Sequence[_Work[ItemT]],
        task: Task[ItemT, ResultT],
        asked: "tuple[list[EngineRequest], dict[str, tuple[_Work[ItemT], int]]]",
        results: "asyncio.Queue[ResultT | BaseException]",
    ) -> None:
        """Asks the engine and finishes items beside it; what ends the call goes into `results` as an exception."""
        requests, places = asked
        try:
            async with asyncio.TaskGroup() as group:
                for work in works:
                    if work.is_answered:  # nothing to ask
                        group.create_task(self._finish(work, task, results))
                deterministic = any(request.sampling.deterministic for request in requests)
                answers = self._engine.generate(requests, deterministic=deterministic)
                async with aclosing(answers):
                    async for answer in answers:
                        work, place = places[answer.id]
                        work.answers[place] = answer
                        if work.is_answered:
                            group.create_task(self._finish(work, task, results))
        except BaseExceptionGroup as errors:
            results.put_nowait(first_error(errors))

    async def _finish(
        self,
        work: _Work[ItemT],
        task: Task[ItemT, ResultT],
        results: "asyncio.Queue[ResultT | BaseException]",
    ) -> None:
        answers = [answer for answer in work.answers if answer is not None]
        try:
            results.put_nowait(await task.result(work.item, answers))
        except OmnialignError as error:
            if not isinstance(error, OF_THE_ITEM) and all(error is not answer.error for answer in answers):
                raise
            results.put_nowait(task.failure(work.item, error))


def check_ids(items: Sequence[Any]) -> None:
    """Raises InvalidArgument ITEM_ID_REPEATED, naming the places of every id that is there twice."""
    counts = Counter(item.id for item in items)
    if repeated := [name for name, count in counts.items() if count > 1]:
        raise InvalidArgument(
            f"Item ids are not unique: {', '.join(repeated[:5])}.",
            reason="ITEM_ID_REPEATED",
            metadata={"ids": ", ".join(repeated[:5]), "count": str(len(repeated))},
            violations=[
                (f"items[{index}].id", "is the id of another item too")
                for index, item in enumerate(items)
                if counts[item.id] > 1
            ],
        )


def with_defaults(
    sampling: generation_pb2.SamplingParams, *, max_new_tokens: int, temperature: float = 0.0
) -> generation_pb2.SamplingParams:
    """A copy with the service's defaults where a field is 0."""
    filled = generation_pb2.SamplingParams(max_new_tokens=max_new_tokens, temperature=temperature)
    filled.MergeFrom(sampling)
    return filled


def derived_seed(seed: int, *, purpose: str) -> int:
    """A seed for another random stream of the same item."""
    digest = hashlib.blake2b(purpose.encode(), key=seed.to_bytes(8, "little"), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def _requests(
    works: Sequence[_Work[ItemT]], model: str, sampling: generation_pb2.SamplingParams, policy: MediaPolicy
) -> tuple[list[EngineRequest], dict[str, tuple[_Work[ItemT], int]]]:
    """The engine's requests in the order of the items, and where each answer belongs."""
    requests: list[EngineRequest] = []
    places: dict[str, tuple[_Work[ItemT], int]] = {}
    for work in works:
        for place, prompt in enumerate(work.prompts):
            name = str(len(requests))
            places[name] = (work, place)
            rendered, schema = prompt.rendered, prompt.json_schema
            requests.append(
                EngineRequest(name, model, rendered.turns, sampling, prompt.seed, rendered.template, policy, schema)
            )
    return requests, places
