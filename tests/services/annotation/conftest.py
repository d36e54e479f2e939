"""A real server with the data and the annotation service, whose clock the tests move."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from benchmarks.null_services import Behaviour, add_models
from omnialign.client import AsyncClient
from omnialign.content import content
from omnialign.v1.annotation_pb2 import Annotation, Rubric
from omnialign.v1.annotation_service_pb2 import Campaign, Task
from omnialign.v1.content_pb2 import MODALITY_IMAGE, MODALITY_VIDEO, Media
from omnialign.v1.record_pb2 import DimensionScore, Feedback, Preference, Record, Response
from services.annotation.__main__ import wire
from services.annotation.config import AnnotationConfig
from services.data.__main__ import wire as wire_data
from services.data.config import DataConfig
from services.runtime.config import ServerConfig
from services.runtime.server import Server

SECOND_US = 1_000_000
LEASE_SECONDS = 60


class Clock:
    """A clock that only moves when it is told to."""

    def __init__(self) -> None:
        self.now_us = 1_700_000_000 * SECOND_US

    def __call__(self) -> int:
        """The time; every look at it is a microsecond later."""
        self.now_us += 1
        return self.now_us

    def advance(self, seconds: float) -> None:
        """Moves it."""
        self.now_us += int(seconds * SECOND_US)


class Stack:
    """The server, on folders and with a clock that outlive it."""

    def __init__(self, root: Path, **settings: Any) -> None:
        self.root, self.clock, self.settings = root, Clock(), settings
        self.behaviour = Behaviour()
        self.client: AsyncClient
        self._running = AsyncExitStack()

    async def start(self) -> None:
        server = Server(ServerConfig(), name="test")
        address = server.bind()
        await self._running.enter_async_context(wire_data(server, DataConfig(root=self.root / "data")))
        config = AnnotationConfig(
            root=self.root / "annotation",
            data_address=address,
            refinement_address=address,
            queue_polling_seconds=0.1,
            retry_cap_seconds=0.2,
            **self.settings,
        )
        add_models(server, self.behaviour)
        await self._running.enter_async_context(wire(server, config, clock=self.clock))
        await server.start()
        server.set_serving()
        self._running.push_async_callback(server.stop, 0)
        self.client = await self._running.enter_async_context(AsyncClient(address))

    async def stop(self) -> None:
        await self._running.aclose()

    async def store(self, records: Sequence[Record], *, dataset_id: str = "pairs") -> str:
        """A version of a new dataset with these records."""
        dataset = await self.client.create_dataset(dataset_id)
        await self.client.append_records(dataset.name, records)
        return (await self.client.commit_version(dataset.name)).name

    async def campaign(self, records: Sequence[Record], **fields: Any) -> Campaign:
        """A campaign over these records; everybody sees them in their own order unless `keep_sides` is false."""
        version, fields = await self.store(records), {"keep_sides": True} | fields
        campaign = Campaign(dataset_version=version, lease_seconds=LEASE_SECONDS, **fields)
        return await self.client.create_campaign("people", campaign)

    async def take(self, campaign: Campaign, annotator: str) -> Task:
        """The task that the annotator gets; fails if there is none."""
        answer = await self.client.lease_task(campaign.name, annotator=annotator)
        assert answer.HasField("task"), answer
        return answer.task

    async def annotate(self, campaign: Campaign, annotator: str, **parts: Any) -> Task:
        """Takes a task and submits it; `parts` as of `filled`."""
        task = await self.take(campaign, annotator)
        annotation = filled(task.rubric, **parts)
        return await self.client.submit_task(task.name, annotation, revision=task.revision, annotator=annotator)


@pytest.fixture
async def stack(tmp_path: Path) -> AsyncIterator[Stack]:
    made = Stack(tmp_path)
    await made.start()
    try:
        yield made
    finally:
        await made.stop()


def pair(number: int, *, subtask: str = "t2t", **fields: Any) -> Record:
    """A pair of texts that models wrote."""
    responses = [Response(content=content(f"answer {side}"), source=f"model-{side}") for side in (1, 2)]
    return Record(
        id=f"pair-{number:03d}",
        subtask=subtask,
        split="train",
        prompt=content(f"question {number}"),
        responses=responses,
        **fields,
    )


def media_pair(subtask: str) -> Record:
    """A pair about a picture (`ti2t`), or of videos (`t2v`); the media are only referred to."""
    picture = Media(modality=MODALITY_IMAGE, mime_type="image/png", sha256="a" * 64, size_bytes=10)
    video = Media(modality=MODALITY_VIDEO, mime_type="video/mp4", sha256="b" * 64, size_bytes=10)
    record = pair(1, subtask=subtask)
    if subtask == "ti2t":
        record.prompt.CopyFrom(content(picture, "what is this?"))
    else:
        for response in record.responses:
            response.content.CopyFrom(content(video))
    return record


def filled(
    rubric: Rubric, *, preferred: int = 1, scores: tuple[int, int] = (3, 1), words: str = "short and right"
) -> Annotation:
    """A complete annotation: every dimension the same."""
    names = [dimension.name for dimension in rubric.dimensions]
    feedback = [
        Feedback(
            scores=[DimensionScore(dimension=name, score=score, rationale=f"{name}: {words}") for name in names],
            critique=f"{words}, of response {side}",
            refinement=f"say more in response {side}",
        )
        for side, score in enumerate(scores, start=1)
    ]
    return Annotation(feedback=feedback, winners=dict.fromkeys(names, preferred), preferred=preferred, reason=words)


def known(number: int, preferred: int) -> Record:
    """A quality item."""
    return pair(number, labels={"gold": "yes"}, preference=Preference(preferred=preferred, reason="it is known"))
