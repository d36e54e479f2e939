"""Calls of model services about the records of a chunk, until each record has an answer or an error of its own.

A step that calls a service is an `ItemCall`: how an item is built from a record, which RPC takes the items, and what
becomes of a record with its answer. `ItemCaller` does the rest for all of them.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from google.rpc import status_pb2

from omnialign.errors import DeadlineExceeded, Unavailable, from_status
from services.pipeline.answer_keys import is_deterministic
from services.pipeline.kept_answers import KeptAnswers
from services.pipeline.kind import JobContext, Outcome, Record, Records
from services.pipeline.quarantine import rejected
from services.pipeline.service_calls import RETRYABLE, ServiceRetrier, is_transient

MAX_ITEM_ATTEMPTS = 5
"""How often an item is sent that alone keeps failing for a transient reason, before it is quarantined."""


class Item(Protocol):
    """One item of a request."""

    id: str


class Answer(Protocol):
    """The result of one item."""

    id: str
    error: status_pb2.Status

    def WhichOneof(self, name: str) -> str | None:  # noqa: N802  protobuf's own name
        """Name of the field that is set."""


I = TypeVar("I", bound=Any)  # noqa: E741  an item type
A = TypeVar("A", bound=Any)


def extended(record: Record) -> Record:
    """A copy of the record, to which a step adds its result."""
    copy = Record()
    copy.CopyFrom(record)
    return copy


def prompt_only(record: Record) -> Record:
    """A copy of the record without its annotations: all that a model under training may know of it."""
    bare = Record(id=record.id, subtask=record.subtask, split=record.split, labels=dict(record.labels))
    bare.history.extend(record.history)
    bare.prompt.CopyFrom(record.prompt)
    return bare


def _never(value: Any) -> bool:
    return False


@dataclass(frozen=True, kw_only=True)
class ItemCall(Generic[I, A]):
    """How a service is called about records."""

    service: str
    """Name of the service, as the job's clients call it."""

    stage: str
    """Where a record that is rejected was quarantined."""

    prepare: Callable[[Record], Record] = extended
    """The copy of a record that the step works on, and that is its result in the end."""

    build: Callable[[JobContext, Record], I]
    """The item for a record; its id is the record's."""

    answer: type[A]
    """The message that answers an item."""

    request: Callable[[JobContext, Sequence[I]], Any]
    """The request that takes the items."""

    rpc: str
    """The method of the service's client that sends the request; answers come in any order."""

    apply: Callable[[JobContext, Record, A], Record]
    """Adds an answer to a record and returns it; or the record as it goes to the quarantine."""

    settle: Callable[[Record], bool] = _never
    """Adds the result to a record about which the service need not be asked; False for a record that it must be."""

    accepts: Callable[[A], bool] = _never
    """Whether `apply` can make something of an answer that is an error; if not, the record is quarantined."""


class ItemCaller:
    """Calls services for the chunks of all jobs of a process; whatever is among the `kept` answers is not asked for."""

    def __init__(self, retrier: ServiceRetrier, *, deadline_seconds: float, kept: KeptAnswers | None = None) -> None:
        self._retrier, self._kept = retrier, kept
        self._deadline_seconds = deadline_seconds

    async def run(self, context: JobContext, records: Records, call: ItemCall[Any, Any]) -> Outcome:
        """What a call makes of records, in their order. The records themselves stay as they are."""
        copies = [call.prepare(record) for record in records]
        asked = [record for record in copies if not call.settle(record)]
        answers = await self.ask(context, [call.build(context, r) for r in asked], call=call) if asked else {}
        outcome = Outcome()
        for record in copies:
            if (answer := answers.get(record.id)) is None:
                result = record  # settled
            elif answer.WhichOneof("result") == "error" and not call.accepts(answer):
                result = rejected(record, answer, stage=call.stage)
            else:
                result = call.apply(context, record, answer)
            (outcome.rejected if result.HasField("quarantine") else outcome.records).append(result)
        return outcome

    async def ask(self, context: JobContext, items: Sequence[I], *, call: ItemCall[I, A]) -> dict[str, A]:
        """The answers by id: those that are kept, and for the others the service is asked.

        Raises OmnialignError if the call itself can never succeed, or the wait took too long.
        """
        if self._kept is None:
            return await self._ask(context, items, call=call)
        request = call.request(context, ())
        keys = self._kept.keys(context, request, items)
        found = await self._kept.find(context, keys, call.answer)
        if len(found) < len(items) and is_deterministic(request):
            found = {}  # the batch decides the tokens
        asked = [item for item in items if item.id not in found]
        answers = await self._kept.keep(context, keys, await self._ask(context, asked, call=call))
        context.reused.update(found)
        return found | answers

    async def _ask(self, context: JobContext, items: Sequence[I], *, call: ItemCall[I, A]) -> dict[str, A]:
        """Waits for a service that is away, and asks again only for what is missing.

        In a deterministic job a call that broke off is repeated with all items, because the batch decides the tokens.
        """
        answers: dict[str, A] = {}
        attempts: dict[str, int] = {}
        is_whole = context.is_deterministic
        wait = self._retrier.wait(context.uid, call.service)
        while missing := [item for item in items if item.id not in answers]:
            if is_whole:  # the same batch again, or the tokens would differ
                answers, missing = {}, list(items)
            num_before = len(answers)
            try:
                await self._attempt(context, missing, call=call, answers=answers, attempts=attempts)
            except RETRYABLE as error:
                # Some answers arrived, so the service is alive: the next failure starts with a fresh budget.
                if len(answers) > num_before and not is_whole:
                    await wait.progressed()
                await wait.after(error)
        await wait.progressed()
        return answers

    async def _attempt(
        self,
        context: JobContext,
        items: Sequence[I],
        *,
        call: ItemCall[I, A],
        answers: dict[str, A],
        attempts: dict[str, int],
    ) -> None:
        """One call; adds to `answers` and `attempts`. Raises if an item is still without an answer after it."""
        try:
            async with asyncio.timeout(self._deadline_seconds):
                send = getattr(getattr(context.clients, call.service), call.rpc)
                async for answer in send(call.request(context, items)):
                    if not _should_retry(answer, attempts):
                        answers[answer.id] = answer
        except TimeoutError as error:
            seconds = f"{self._deadline_seconds:.0f}"
            raise DeadlineExceeded(f"no answer within {seconds} seconds", reason="STEP_DEADLINE_EXCEEDED") from error
        if any(item.id not in answers for item in items):
            raise Unavailable("the answer ended early", reason="ANSWER_INCOMPLETE")


def _should_retry(answer: Any, attempts: dict[str, int]) -> bool:
    """Whether an item failed for a transient reason, and has attempts left."""
    if answer.WhichOneof("result") != "error" or not is_transient(from_status(answer.error)):
        return False
    attempts[answer.id] = attempts.get(answer.id, 0) + 1
    return attempts[answer.id] < MAX_ITEM_ATTEMPTS
