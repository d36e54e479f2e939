"""Asking a model service about the records of a chunk, until each has an answer or an error of its own."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Protocol, TypeVar

from google.rpc import status_pb2

from omnialign.errors import DeadlineExceeded, OmnialignError, Unavailable, from_status
from omnialign.v1 import record_pb2
from services.alignment.counts import ABSTAINED_LABEL
from services.alignment.patience import Patience, is_passing

Record = record_pb2.Record

MAX_ITEM_TRIES = 5
"""How often an item that alone failed for a passing reason is asked for again before it is set aside."""


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


class Asker:
    """Calls model services for the chunks of all jobs."""

    def __init__(self, patience: Patience, *, deadline_seconds: float) -> None:
        self._patience = patience
        self._deadline_seconds = deadline_seconds

    async def ask(
        self,
        call: Callable[[Sequence[I]], AsyncIterator[A]],
        items: Sequence[I],
        *,
        uid: str,
        service: str,
        whole: bool,
    ) -> dict[str, A]:
        """The answers by id. Waits for a service that is away, and asks again only for what is missing.

        With `whole`, a call that broke off is repeated with all items, so that the batch stays the same. Raises
        OmnialignError when the call itself can never succeed, or the wait took too long.
        """
        answers: dict[str, A] = {}
        tries: dict[str, int] = {}
        wait = self._patience.wait(uid, service)
        while missing := [item for item in items if item.id not in answers]:
            if whole:
                answers, missing = {}, list(items)
            before = len(answers)
            try:
                await self._once(call, missing, answers=answers, tries=tries)
            except (OmnialignError, TimeoutError, ConnectionError) as error:
                if len(answers) > before and not whole:
                    await wait.progressed()
                await wait.after(error)
        await wait.progressed()
        return answers

    async def _once(
        self,
        call: Callable[[Sequence[I]], AsyncIterator[A]],
        items: Sequence[I],
        *,
        answers: dict[str, A],
        tries: dict[str, int],
    ) -> None:
        try:
            async with asyncio.timeout(self._deadline_seconds):
                async for answer in call(items):
                    if _should_retry(answer, tries):
                        continue
                    answers[answer.id] = answer
        except TimeoutError as error:
            seconds = f"{self._deadline_seconds:.0f}"
            raise DeadlineExceeded(f"no answer within {seconds} seconds", reason="STEP_DEADLINE_EXCEEDED") from error
        if any(item.id not in answers for item in items):
            raise Unavailable("the answer ended early", reason="ANSWER_INCOMPLETE")


def _should_retry(answer: Any, tries: dict[str, int]) -> bool:
    """Whether an item failed for a reason that may pass, and was not tried too often yet."""
    if answer.WhichOneof("result") != "error" or not is_passing(from_status(answer.error)):
        return False
    tries[answer.id] = tries.get(answer.id, 0) + 1
    return tries[answer.id] < MAX_ITEM_TRIES


def set_aside(record: Record, *, stage: str, reason: str, message: str) -> Record:
    """The record as it goes to the quarantine."""
    aside = Record()
    aside.CopyFrom(record)
    aside.quarantine.stage, aside.quarantine.reason, aside.quarantine.message = stage, reason, message[:1000]
    return aside


def refused(record: Record, answer: Any, *, stage: str) -> Record:
    """The record of an item that failed, with the error's reason."""
    error = from_status(answer.error)
    return set_aside(record, stage=stage, reason=error.reason, message=error.message)


def abstained(record: Record, *, stage: str, reason: str, text: str) -> Record:
    """The record of an item on which the model abstained: it leaves the job, and is not counted as its own fault."""
    aside = set_aside(record, stage=stage, reason=reason or "ABSTAINED", message=text)
    aside.labels[ABSTAINED_LABEL] = "true"
    return aside


def extended(record: Record) -> Record:
    """A copy of the record, to which a step adds its result."""
    copy = Record()
    copy.CopyFrom(record)
    return copy


def prompt_only(record: Record) -> Record:
    """The record without its annotations: what the loop may know of it."""
    bare = Record(id=record.id, subtask=record.subtask, split=record.split, labels=dict(record.labels))
    bare.prompt.CopyFrom(record.prompt)
    return bare
