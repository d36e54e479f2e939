"""Models that come from jobs which run apart from the service: taken in, passed on to the data service, registered.

The bytes are passed on as they come, so a model of any size needs no more memory or disk here than a message.
"""

import asyncio
from collections.abc import AsyncIterator

from omnialign.errors import Aborted, FailedPrecondition, InvalidArgument
from omnialign.folders import FileEntry
from omnialign.v1.training_service_pb2 import DeliverModelRequest, TrainingJob
from services.training.jobs import Changes, Jobs
from services.training.peers import Peers
from services.training.store import ENDED, Entry, Store
from services.training.transitions import note_running, settle

Piece = FileEntry | bytes


class Deliveries:
    """The receiving end of DeliverModel. One delivery of a job at a time; the others wait and get its result."""

    def __init__(self, jobs: Jobs, *, store: Store, changes: Changes, peers: Peers) -> None:
        self._jobs, self._store, self._changes, self._peers = jobs, store, changes, peers
        self._locks: dict[str, asyncio.Lock] = {}

    async def take(self, messages: AsyncIterator[DeliverModelRequest], *, token: str) -> str:
        """Takes a model in, ends its job as SUCCEEDED, and returns the model's name; safe to repeat.

        Raises `InvalidArgument` (DELIVERY_MALFORMED), `FailedPrecondition` (JOB_NOT_RUNNING, ATTEMPT_OUTDATED), the
        errors of the token, and the data service's.
        """
        header = await anext(aiter(messages), None)
        if header is None or header.WhichOneof("message") != "header":
            raise _malformed("the first message of a delivery is its header")
        name, attempt = header.header.name, header.header.attempt
        await self._jobs.own(name, token=token)
        lock = self._locks.setdefault(name, asyncio.Lock())
        try:
            async with lock:
                entry = await self._jobs.own(name, token=token)
                if entry.job.state == TrainingJob.STATE_SUCCEEDED:
                    return entry.job.model
                _check_expected(entry, attempt)
                model = await self._peers.pass_on(entry.job, _pieces(messages))
                return await self._settle(name, attempt, model)
        finally:
            if not lock.locked():
                self._locks.pop(name, None)

    async def _settle(self, name: str, attempt: int, model: str) -> str:
        """Ends the job with its model, unless it was cancelled or begun anew while the model came in."""

        def delivered(entry: Entry) -> None:
            if entry.job.state in (TrainingJob.STATE_QUEUED, TrainingJob.STATE_RUNNING):
                _check_expected(entry, attempt)
                note_running(entry)
                settle(entry, TrainingJob.STATE_SUCCEEDED, model=model)

        entry = await self._store.update(name, delivered)
        self._changes.announce()
        if entry.job.state != TrainingJob.STATE_SUCCEEDED:
            raise Aborted("the job was stopped while its model came in", reason="JOB_NOT_RUNNING")
        return entry.job.model


def _check_expected(entry: Entry, attempt: int) -> None:
    # A job whose pods were not yet seen running is RUNNING all the same when it delivers.
    if entry.job.state in ENDED or entry.job.state == TrainingJob.STATE_CANCELLING:
        state = TrainingJob.State.Name(entry.job.state)
        raise FailedPrecondition(
            f"the job is {state} and takes no model any more", reason="JOB_NOT_RUNNING", metadata={"state": state}
        )
    if entry.job.attempt_count != attempt:
        raise FailedPrecondition(
            f"attempt {attempt} delivers, but attempt {entry.job.attempt_count} is the current one",
            reason="ATTEMPT_OUTDATED",
            metadata={"attempt": str(attempt), "current": str(entry.job.attempt_count)},
        )


async def _pieces(messages: AsyncIterator[DeliverModelRequest]) -> AsyncIterator[Piece]:
    """The files of a delivery, each followed by its bytes. Order and sizes are checked by who takes the bytes."""
    begun = False
    async for message in messages:
        kind = message.WhichOneof("message")
        if kind == "file":
            begun = True
            file = message.file
            yield FileEntry(file.path, file.size_bytes, file.sha256)
        elif kind == "chunk" and begun:
            yield message.chunk
        else:
            raise _malformed("after the header come files, each followed by its bytes")
    if not begun:
        raise _malformed("a delivery without a file is no model")


def _malformed(message: str) -> InvalidArgument:
    return InvalidArgument(message, reason="DELIVERY_MALFORMED")
