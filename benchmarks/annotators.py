"""Scripted annotators: each leases pairs, saves drafts, comes back to them, and submits, until none is left."""

import asyncio
import itertools
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from omnialign.client import AsyncClient
from omnialign.content import content
from omnialign.errors import ResourceExhausted, Unavailable
from omnialign.retry import RetryPolicy
from omnialign.v1.annotation_pb2 import Annotation, Rubric
from omnialign.v1.annotation_service_pb2 import Campaign, LeaseTaskResponse, Task
from omnialign.v1.record_pb2 import DimensionScore, Feedback, Record, Response

T = TypeVar("T")

WAIT_SECONDS = 0.05
"""Between two looks for a pair, while all that are left are held by others."""
LEASE_SECONDS = 600
PATIENCE = RetryPolicy(base_seconds=0.2, cap_seconds=1.0, budget_seconds=120.0)


class TaskClient(Protocol):
    """What an annotator works with: a client, or anything that is used as one."""

    async def lease_task(self, campaign: str, *, annotator: str = "") -> LeaseTaskResponse:
        """The annotator's task, or that there is none."""

    async def save_draft(self, name: str, annotation: Annotation, *, revision: int, annotator: str = "") -> Task:
        """Keeps what is written so far."""

    async def submit_task(self, name: str, annotation: Annotation, *, revision: int, annotator: str = "") -> Task:
        """Submits for good."""


@dataclass
class Diary:
    """What the service has confirmed to the annotators, and how long each call took."""

    submitted: dict[tuple[str, str], Annotation] = field(default_factory=dict)
    """By annotator and record."""
    seconds: dict[str, list[float]] = field(default_factory=dict)
    """By call."""

    changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    pace_seconds: float = 0.0
    """How long an annotator pauses before a call, on average; people pause much longer."""
    think: Callable[[str], Awaitable[None]] | None = None
    """Awaited with an annotator's name between a draft and the look back at it."""
    repeats: int = 0
    """Calls that were made again, because the service was away or full."""
    draw: random.Random = field(default_factory=lambda: random.Random(0))

    async def reaches(self, count: int) -> None:
        """Returns once so many annotations are submitted."""
        async with self.changed:
            await self.changed.wait_for(lambda: len(self.submitted) >= count)

    async def note(self, annotator: str, record_id: str, annotation: Annotation) -> None:
        """Notes a submission. Raises AssertionError if the annotator had the pair before."""
        if (annotator, record_id) in self.submitted:
            raise AssertionError(f"{annotator} was given {record_id} twice")
        async with self.changed:
            self.submitted[annotator, record_id] = annotation
            self.changed.notify_all()

    async def call(self, name: str, ask: Callable[[], Awaitable[T]]) -> T:
        """The answer to a call, repeated while the service is away or full: a person waits longer than a client."""
        await asyncio.sleep(self.draw.uniform(0.0, 2.0 * self.pace_seconds))
        retries, begun = PATIENCE.start(), time.perf_counter()
        while True:
            try:
                answer = await ask()
            except (ResourceExhausted, Unavailable):
                pause_seconds = retries.next_pause_seconds()
                if pause_seconds is None:
                    raise
                self.repeats += 1
                await asyncio.sleep(pause_seconds)
            else:
                self.seconds.setdefault(name, []).append(time.perf_counter() - begun)
                return answer

    def percentile(self, share: float, *, call: str = "") -> float:
        """Time below which this share of the calls stayed, in seconds; of all calls, or of one kind."""
        chosen = [self.seconds[call]] if call else self.seconds.values()
        found = sorted(itertools.chain.from_iterable(chosen))
        return found[min(len(found) - 1, int(share * len(found)))]


def pairs(count: int) -> list[Record]:
    """Pairs of texts."""
    return [
        Record(
            id=f"pair-{number:05d}",
            subtask="t2t",
            split="train",
            prompt=content(f"question {number}"),
            responses=[
                Response(content=content(f"answer {side} to {number}"), source=f"model-{side}") for side in (1, 2)
            ],
        )
        for number in range(count)
    ]


async def open_campaign(client: AsyncClient, *, count: int, overlap: int) -> Campaign:
    """A campaign over as many new pairs."""
    dataset = await client.create_dataset("pairs")
    await client.append_records(dataset.name, pairs(count))
    version = await client.commit_version(dataset.name)
    campaign = Campaign(dataset_version=version.name, overlap=overlap, lease_seconds=LEASE_SECONDS, keep_sides=True)
    return await client.create_campaign("people", campaign)


async def annotate_all(clients: Sequence[TaskClient], campaign: Campaign, *, annotators: int, diary: Diary) -> None:
    """Has annotators work side by side until no pair is left for any of them. They may share clients."""
    async with asyncio.TaskGroup() as group:
        for number in range(annotators):
            client = clients[number % len(clients)]
            group.create_task(annotate(client, campaign, name=f"annotator-{number:03d}", diary=diary))


async def annotate(client: TaskClient, campaign: Campaign, *, name: str, diary: Diary) -> None:
    """One annotator. Raises AssertionError if a draft that was confirmed is not there later."""
    while True:
        answer = await diary.call("lease", lambda: client.lease_task(campaign.name, annotator=name))
        if answer.HasField("task"):
            await _annotate_one(client, answer.task, campaign=campaign, name=name, diary=diary)
        elif answer.held_by_others_count:
            await asyncio.sleep(WAIT_SECONDS)
        else:
            return


async def _annotate_one(client: TaskClient, task: Task, *, campaign: Campaign, name: str, diary: Diary) -> None:
    record_id, draft = task.record.id, Annotation(reason=f"{name} thinks about {task.record.id}")
    saved = await diary.call(
        "draft", lambda: client.save_draft(task.name, draft, revision=task.revision, annotator=name)
    )
    if diary.think is not None:
        await diary.think(name)
    again = (await diary.call("lease", lambda: client.lease_task(campaign.name, annotator=name))).task
    if (again.record.id, again.annotation.reason, again.revision) != (record_id, draft.reason, saved.revision):
        raise AssertionError(f"the draft of {name} on {record_id} is gone: {again}")
    annotation = complete(task.rubric, reason=draft.reason)
    await diary.call(
        "submit", lambda: client.submit_task(task.name, annotation, revision=saved.revision, annotator=name)
    )
    await diary.note(name, record_id, annotation)


def complete(rubric: Rubric, *, reason: str) -> Annotation:
    """A complete annotation, for the first response."""
    names = [dimension.name for dimension in rubric.dimensions]
    feedback = [
        Feedback(
            scores=[DimensionScore(dimension=name, score=score, rationale=f"{name} is like that") for name in names],
            critique=f"What response {side} says is clear.",
            refinement=f"Say more in response {side}.",
        )
        for side, score in ((1, 3), (2, 1))
    ]
    return Annotation(feedback=feedback, winners=dict.fromkeys(names, 1), preferred=1, reason=reason)


async def check(client: AsyncClient, campaign: Campaign, diary: Diary) -> None:
    """Raises AssertionError unless every pair has all its annotations, by different people, as they were confirmed."""
    found: dict[tuple[str, str], Annotation] = {}
    async for item in client.list_items(campaign.name):
        by = [answer.annotator for answer in item.answers]
        if len(by) != max(campaign.overlap, 1) or len({*by}) != len(by):
            raise AssertionError(f"{item.record_id} was annotated by {by}")
        found |= {(answer.annotator, item.record_id): answer.annotation for answer in item.answers}
    if found != diary.submitted:
        lost, odd = diary.submitted.keys() - found.keys(), found.keys() - diary.submitted.keys()
        raise AssertionError(f"lost {sorted(lost)[:5]}, never confirmed {sorted(odd)[:5]}, or with another content")
