"""Whoever watches a job gets each event, at one look into the database for each."""

import asyncio
from collections.abc import Sequence
from typing import Any, cast

from omnialign.v1 import alignment_service_pb2
from services.alignment.job import ALIGNMENT
from services.pipeline.job_store import JobStore
from services.pipeline.jobs import Jobs
from services.pipeline.notifier import Notifier

Job = alignment_service_pb2.AlignmentJob
Event = alignment_service_pb2.WatchAlignmentJobResponse
SECONDS = 30.0


class Events:
    """A store with one job, which counts how often it is asked for events."""

    def __init__(self, notifier: Notifier) -> None:
        self._notifier, self._events, self.looks = notifier, list[Event](), 0

    def add(self, state: Job.State.ValueType) -> None:
        job = Job(uid="uid", state=state)
        self._events.append(Event(sequence=len(self._events) + 1, alignment_job=job))
        self._notifier.job_state("uid", state)

    async def get(self, name: str) -> Job:
        return self._events[-1].alignment_job

    async def state(self, uid: str) -> int:
        return self._events[-1].alignment_job.state

    async def events(self, uid: str, *, after: int, limit: int = 100) -> Sequence[Event]:
        self.looks += 1
        return self._events[after : after + limit]


async def test_each_event_costs_one_look() -> None:
    notifier = Notifier()
    store, others = Events(notifier), cast(Any, None)
    jobs = Jobs(
        cast(JobStore, store),
        kind=ALIGNMENT,
        start=others,
        cancel=others,
        tables=others,
        clients=others,
        notifier=notifier,
        quotas=others,
        uses=others,
    )
    store.add(Job.STATE_QUEUED)
    found = []
    async with asyncio.timeout(SECONDS):
        async for event in jobs.watch("projects/default/alignmentJobs/one", resume_after=0):
            found.append(event.sequence)
            # While the watcher is busy with it, or waits for the next.
            add = store.add if len(found) % 2 else lambda state: asyncio.get_running_loop().call_soon(store.add, state)
            add(Job.STATE_RUNNING if len(found) < 5 else Job.STATE_SUCCEEDED)
    assert found == [1, 2, 3, 4, 5, 6]
    assert store.looks == 6
