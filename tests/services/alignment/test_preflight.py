"""The pre-flight over a data service that counts what it is asked."""

from collections.abc import AsyncIterator, Iterable, Sequence
from types import SimpleNamespace
from typing import Any

from omnialign.client.bulk_media import MediaByDigest
from omnialign.content import content
from omnialign.errors import NotFound
from omnialign.v1 import alignment_service_pb2, training_service_pb2
from omnialign.v1.content_pb2 import Media
from omnialign.v1.record_pb2 import Record
from services.alignment import preflight
from services.alignment.job import with_defaults
from tests.services.pipeline.test_media_check import Stored, picture

RECORDS = 100


class Data(Stored):
    """A dataset of prompts with a picture each; one of the evaluation has none that is stored."""

    def __init__(self) -> None:
        super().__init__()
        self.splits = {name: [self._prompt(name, n) for n in range(RECORDS)] for name in ("prompts", "test")}
        self.calls = list[int]()
        del self.media[self.splits["test"][70].prompt.parts[1].media.sha256]

    def _prompt(self, split: str, number: int) -> Record:
        shown: Media = self.add(picture(number + (split == "test") * RECORDS))
        return Record(id=f"r{number:03d}", subtask="ti2t", split=split, prompt=content("What is it?", shown))

    async def stream_records(
        self, source: str, *, splits: Sequence[str], subtasks: Sequence[str]
    ) -> AsyncIterator[Record]:
        for record in self.splits.get(splits[0], []):
            yield record

    async def fetch_media(self, digests: Iterable[str]) -> MediaByDigest:
        wanted = list(digests)
        self.calls.append(len(wanted))
        return await super().fetch_media(wanted)

    async def get_model_version(self, name: str) -> Any:
        raise NotFound("no such model", reason="MODEL_VERSION_NOT_FOUND")


class Training:
    async def create_training_job(self, job_id: str, spec: Any, *, validate_only: bool) -> Any:
        return training_service_pb2.TrainingJob()


async def test_media_of_many_records_are_asked_for_together() -> None:
    data = Data()
    models = {
        name: f"projects/default/models/{name}/versions/1" for name in ("base_model", "feedback_model", "judge_model")
    }
    spec = alignment_service_pb2.AlignmentSpec(
        dataset="projects/default/datasets/d/versions/1", prompt_split="prompts", evaluation_split="test", **models
    )
    clients: Any = SimpleNamespace(data=data, training=Training())
    report = await preflight.inspect(with_defaults(spec), clients)
    assert (report.prompts, report.evaluation_prompts) == (RECORDS, RECORDS - 1)
    assert report.dropped == {"MEDIA_NOT_FOUND": 1}
    assert set(data.fetched.values()) == {1}
    assert len(data.calls) < RECORDS / 8
