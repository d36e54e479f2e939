"""The loop that every model service runs: items in, prompts to the engine, a result per item as it finishes.

A service says how an item becomes prompts and how answers become a result (`Task`); the loop does everything else. An
error that an item causes fails that item. An error that any item would meet (the model, the data service, the queue)
ends the call.
"""

import asyncio
import hashlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

from omnialign.errors import DataLoss, FailedPrecondition, InvalidArgument, NotFound, OmnialignError, to_status
from omnialign.modeling.inputs import MediaPolicy, Pieces
from omnialign.modeling.prompts import Rendered
from omnialign.v1 import content_pb2, generation_pb2
from services.inference.engine import Engine, EngineRequest, EngineResult
from services.inference.errors import first_error
from services.inference.media import MediaClient
from services.inference.progress import begins_with

ItemT = TypeVar("ItemT", bound=Any)
ResultT = TypeVar("ResultT", bound=Any)

ITEM_ERRORS = (InvalidArgument, NotFound, FailedPrecondition, DataLoss)
"""Errors of reading and storing media that the item has caused; all others are the environment's."""


@dataclass(frozen=True)
class Prompt:
    """One prompt of an item."""

    rendered: Rendered
    seed: int
    """Seed of the prompt's own random stream."""
    json_schema: str = ""
    """Schema of the answer, if the answer is JSON."""
    requires_schema: bool = False
    """Whether the item fails where the engine cannot enforce the schema."""
    return_tokens: bool = False
    """Whether the answer carries the ids and log-probabilities of its tokens."""
    answer: Pieces | None = None
    """The answer to which a reward model is to give a reward."""
    choices: tuple[Pieces, ...] = ()
    """Answers that the model is to weigh against each other."""
    is_followed: bool = False
    """Whether the task makes results of what has been written so far (`Task.steps`)."""


class Task(ABC, Generic[ItemT, ResultT]):
    """What a service does with an item. `result_type` builds its results, from `id` and `error` for instance."""

    def __init__(self, result_type: Callable[..., ResultT]) -> None:
        self.result_type = result_type

    def works(self, items: Sequence[Any]) -> Sequence[ItemT]:
        """What gets a result each, given the items of a request: those themselves, or several samples of each."""
        return items

    @abstractmethod
    def contents(self, item: ItemT) -> Iterable[content_pb2.Content]:
        """The messages whose media the prompts need."""

    @abstractmethod
    def prompts(self, item: ItemT, media: Mapping[str, bytes]) -> Sequence[Prompt]:
        """What to ask the model, possibly nothing; `media` are bytes by sha256. May raise OmnialignError."""

    @abstractmethod
    async def result(self, item: ItemT, answers: Sequence[EngineResult]) -> ResultT:
        """The result, given the answers in the order of the prompts. Raises the error of an answer to fail the item."""

    def steps(self, item: ItemT, before: Pieces, now: Pieces) -> Iterable[ResultT]:
        """Results of an item that is not finished, given what could be read of its answer before and what can be now.

        The pieces of before are there, only the last of them may be a longer text.
        """
        return ()

    def failure(self, item: ItemT, error: OmnialignError) -> ResultT:
        """The result of an item that failed."""
        return self.result_type(id=item.id, error=to_status(error))


class ItemsRequest(Protocol):
    """What the requests of all model services have in common."""

    @property
    def items(self) -> Sequence[Any]:
        """What to work on."""
        ...

    @property
    def model(self) -> str:
        """The model to ask."""
        ...

    @property
    def sampling(self) -> generation_pb2.SamplingParams:
        """How to sample; fields that are 0 mean the service's defaults."""
        ...

    @property
    def media_policy(self) -> generation_pb2.MediaPolicy:
        """How media are reduced before the model reads them."""
        ...


@dataclass(frozen=True)
class UnsampledRequest:
    """A request of which nothing is sampled, because the answers are given; `sampling` says if it is deterministic."""

    model: str
    items: Sequence[Any]
    media_policy: generation_pb2.MediaPolicy
    sampling: generation_pb2.SamplingParams


@dataclass
class _Work(Generic[ItemT]):
    """An item with its prompts, and the answers as they arrive."""

    item: ItemT
    prompts: Sequence[Prompt]
    answers: list[EngineResult | None]
    written: Pieces = ()
    """What can be read of the answer so far, if it is followed."""

    @property
    def is_answered(self) -> bool:
        return all(answer is not None for answer in self.answers)


@dataclass(frozen=True)
class _Step(Generic[ResultT]):
    """A result of an item that is not finished."""

    result: ResultT


Results = asyncio.Queue[ResultT | _Step[ResultT] | BaseException]


class ItemLoop:
    """Runs the items of requests on an engine; `media` reads what they contain and stores what they produce.

    `max_new_tokens` bounds the answers of requests that set no bound of their own.
    """

    def __init__(self, engine: Engine, media: MediaClient, *, max_new_tokens: int) -> None:
        self._engine, self.media, self._max_new_tokens = engine, media, max_new_tokens

    async def run(
        self, request: ItemsRequest, task: Task[ItemT, ResultT], *, temperature: float = 0.0
    ) -> AsyncGenerator[ResultT, None]:
        """The results of all items, as each finishes. Raises InvalidArgument ITEM_ID_REPEATED before any work.

        `temperature` is that of requests that set none.
        """
        check_ids(request.items)
        sampling = with_defaults(request.sampling, max_new_tokens=self._max_new_tokens, temperature=temperature)
        works, failures = await self._prepare(task.works(request.items), task)
        for failure in failures:
            yield failure
        # The engine runs in a task of its own and results wait in a queue, so that a slow reader of this iterator
        # holds up neither the engine nor the media of other items.
        results: Results[ResultT] = asyncio.Queue()
        requests, owners = _engine_requests(works, request, sampling, lambda work: partial(_tell, work, task, results))
        driver = asyncio.create_task(self._drive(works, task, requests, owners, results))
        try:
            num_left = len(works)
            while num_left:
                result = await results.get()
                if isinstance(result, BaseException):
                    raise result
                if isinstance(result, _Step):
                    yield result.result
                    continue
                num_left -= 1
                yield result
        finally:
            driver.cancel()
            await asyncio.gather(driver, return_exceptions=True)

    async def _prepare(
        self, items: Sequence[ItemT], task: Task[ItemT, ResultT]
    ) -> tuple[list[_Work[ItemT]], list[ResultT]]:
        """The items with their prompts, and the results of those whose prompts cannot be made."""

        async def prompts_of(item: ItemT) -> Sequence[Prompt] | OmnialignError:
            try:
                return task.prompts(item, await self.media.fetch(task.contents(item)))
            except ITEM_ERRORS as error:
                return error

        works, failures = [], []
        for item, prompts in zip(items, await asyncio.gather(*map(prompts_of, items)), strict=True):
            if isinstance(prompts, OmnialignError):
                failures.append(task.failure(item, prompts))
            else:
                works.append(_Work(item, prompts, [None] * len(prompts)))
        return works, failures

    async def _drive(
        self,
        works: Sequence[_Work[ItemT]],
        task: Task[ItemT, ResultT],
        requests: Sequence[EngineRequest],
        owners: Mapping[str, tuple[_Work[ItemT], int]],
        results: Results[ResultT],
    ) -> None:
        """Asks the engine and finishes items beside it; an error that ends the call goes into `results`."""
        deterministic = any(request.sampling.deterministic for request in requests)
        try:
            async with asyncio.TaskGroup() as group:
                for work in works:
                    if work.is_answered:  # there was nothing to ask
                        group.create_task(self._finish(work, task, results))
                async with aclosing(self._engine.generate(requests, deterministic=deterministic)) as answers:
                    async for answer in answers:
                        work, index = owners[answer.id]
                        work.answers[index] = answer
                        if work.is_answered:
                            group.create_task(self._finish(work, task, results))
        except BaseExceptionGroup as errors:
            results.put_nowait(first_error(errors))

    async def _finish(self, work: _Work[ItemT], task: Task[ItemT, ResultT], results: Results[ResultT]) -> None:
        answers = [answer for answer in work.answers if answer is not None]
        try:
            results.put_nowait(await task.result(work.item, answers))
        except OmnialignError as error:
            # The error of an answer always concerns its item alone; one of storing media may concern everybody.
            if not isinstance(error, ITEM_ERRORS) and all(error is not answer.error for answer in answers):
                raise
            results.put_nowait(task.failure(work.item, error))


def check_ids(items: Sequence[Any]) -> None:
    """Raises InvalidArgument ITEM_ID_REPEATED, naming every position of an id that occurs more than once."""
    counts = Counter(item.id for item in items)
    if repeated := [name for name, count in counts.items() if count > 1]:
        raise InvalidArgument(
            f"Item ids must be unique, and these are not: {', '.join(repeated[:5])}.",
            reason="ITEM_ID_REPEATED",
            metadata={"ids": ", ".join(repeated[:5]), "count": str(len(repeated))},
            violations=[
                (f"items[{index}].id", "is also the id of another item")
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
    """A seed for another, independent random stream of the same item."""
    digest = hashlib.blake2b(purpose.encode(), key=seed.to_bytes(8, "little"), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def _tell(work: _Work[ItemT], task: Task[ItemT, ResultT], results: Results[ResultT], now: Pieces) -> None:
    """Passes on what has been written since the last time, unless that is not how the answer began."""
    if begins_with(now, work.written):
        before, work.written = work.written, now
        for result in task.steps(work.item, before, now):
            results.put_nowait(_Step(result))


def _engine_requests(
    works: Sequence[_Work[ItemT]],
    request: ItemsRequest,
    sampling: generation_pb2.SamplingParams,
    follow: Callable[[_Work[ItemT]], Callable[[Pieces], None]],
) -> tuple[list[EngineRequest], dict[str, tuple[_Work[ItemT], int]]]:
    """The engine's requests in the order of the items, and for each id the item and prompt that it belongs to."""
    policy = MediaPolicy.of(request.media_policy)
    requests: list[EngineRequest] = []
    owners: dict[str, tuple[_Work[ItemT], int]] = {}
    for work in works:
        for index, prompt in enumerate(work.prompts):
            name = str(len(requests))
            owners[name] = (work, index)
            requests.append(
                EngineRequest(
                    id=name,
                    model=request.model,
                    turns=prompt.rendered.turns,
                    sampling=sampling,
                    seed=prompt.seed,
                    template=prompt.rendered.template,
                    policy=policy,
                    json_schema=prompt.json_schema,
                    requires_schema=prompt.requires_schema,
                    return_tokens=prompt.return_tokens,
                    answer=prompt.answer,
                    choices=prompt.choices,
                    on_progress=follow(work) if prompt.is_followed else None,
                )
            )
    return requests, owners
