"""One stack with one seed's data. Its folder stays, and every job is made once: whoever asks again gets the same one.

So an experiment that was interrupted goes on within the job at hand.
"""

import contextlib
import json
import time
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from google.protobuf.json_format import ParseDict

from benchmarks.experiment.arms import DPO_RATE, Source
from examples.tinyworld import oracle, recipe
from examples.tinyworld.dataset import Sizes, write
from examples.tinyworld.pretrain import FOLDER
from omnialign.client import AsyncClient
from omnialign.content import media_of
from omnialign.errors import InvalidArgument, NotFound
from omnialign.modeling.inputs import pieces
from omnialign.v1 import (
    alignment_service_pb2,
    content_pb2,
    record_pb2,
    refinement_service_pb2,
    training_service_pb2,
)
from services.embedded import embedded

Spec = dict[str, Any]
STARTED = time.monotonic()
ITEMS_PER_REQUEST = 64
JOB_PROMPTS = 8
"""Held-out prompts that a source's own job evaluates: few, because all arms are evaluated alike afterwards."""


@dataclass(frozen=True)
class Plan:
    """Size of the experiment."""

    sizes: Sizes
    num_pairs: int
    rollouts: int
    """Batches of answers that an arm of reinforcement learning draws."""
    small: bool
    cache: Path

    def folder(self, seed: int) -> Path:
        """Where everything of a seed is kept."""
        return self.cache / str(seed)

    def keep(self) -> None:
        """Writes down what the cache is for. Raises InvalidArgument CACHE_OF_OTHER_SIZES if it holds another plan's."""
        self.cache.mkdir(parents=True, exist_ok=True)
        wanted = {**asdict(self), "cache": ""}
        kept = self.cache / "plan.json"
        if kept.exists() and json.loads(kept.read_text()) != wanted:
            raise InvalidArgument(
                f"'{self.cache}' holds an experiment of other sizes ({kept.name}); choose another folder with --cache.",
                reason="CACHE_OF_OTHER_SIZES",
                metadata={"folder": str(self.cache)},
            )
        kept.write_text(json.dumps(wanted))


@dataclass(frozen=True)
class Answered:
    """A prompt and the answer that a model gave to it; None if that cannot be read."""

    record: record_pb2.Record
    answer: content_pb2.Content | None


class Bench:
    """Runs jobs on one seed's data, and has their models answer."""

    def __init__(self, client: AsyncClient, *, seed: int, plan: Plan) -> None:
        self.client, self.seed, self.plan = client, seed, plan
        self.dataset = self.base_model = ""
        self._sources: dict[str, alignment_service_pb2.AlignmentJob] = {}
        self._jobs: dict[str, training_service_pb2.TrainingJob] = {}

    async def prepare(self, folder: Path) -> None:
        """Writes and imports the data and registers the base model."""
        self.base_model = (await self.client.register_model(recipe.MODEL_ID, f"file://{FOLDER}")).name
        newest = f"{self.client.parent}/datasets/{recipe.DATASET_ID}/versions/-"
        try:
            self.dataset = (await self.client.get_dataset_version(newest)).name
        except NotFound:
            write(folder, seed=self.seed, sizes=self.plan.sizes)
            async for progress in self.client.import_dataset(recipe.DATASET_ID, str(folder)):
                self.dataset = progress.dataset_version.name

    def recipe(self, method: str = "dpo") -> Spec:
        """The demo's job with a method."""
        return recipe.spec(
            self.seed, dataset=self.dataset, base_model=self.base_model, method=method, small=self.plan.small
        )

    def table(self, source: Source, purpose: str) -> str:
        """The dataset that the job of a source made for a purpose."""
        return f"{self.client.parent}/datasets/{source.job_id}-{purpose}"

    async def align(self, source: Source) -> alignment_service_pb2.AlignmentJob:
        """The job of a source, at its end. Raises RuntimeError if it failed or has too few pairs."""
        if source.job_id not in self._sources:
            self._sources[source.job_id] = await self._align(source)
        return self._sources[source.job_id]

    async def _align(self, source: Source) -> alignment_service_pb2.AlignmentJob:
        values = self.recipe()
        values["optimization"]["hyperparameters"]["learning_rate"] = DPO_RATE
        values |= {"judge_model": await self.judge(), "max_pairs": self.plan.num_pairs}
        values |= {"max_evaluation_prompts": JOB_PROMPTS}
        if source.share is None:
            values["pair_source"] = "PAIR_SOURCE_BINARY"
        else:
            values["feedback_fraction"] = source.share
        spec = ParseDict(values, alignment_service_pb2.AlignmentSpec())
        started = time.monotonic()
        job = await self.client.create_alignment_job(source.job_id, spec, request_id=once(source.job_id))
        async for event in self.client.watch_alignment_job(job.name):
            job = event.alignment_job
        if job.state != job.STATE_SUCCEEDED:
            raise self._failed(source.job_id, job.error.message)
        pairs = (await self.client.get_dataset(self.table(source, "pairs"))).record_count
        if pairs != self.plan.num_pairs:
            raise self._failed(source.job_id, f"{pairs} pairs, not {self.plan.num_pairs}; ask for fewer with --pairs")
        say(f"seed {self.seed}: job {source.job_id}", since=started)
        return job

    async def judge(self) -> str:
        """The judge, which all sources share."""
        values = {"target": "judgement", "splits": ["train"], "hyperparameters": self.recipe()["judge_training"]}
        return (await self.train("judge", {"method": "sft", "dataset": self.dataset, **values})).model

    async def train(self, job_id: str, values: Spec) -> training_service_pb2.TrainingJob:
        """A training job from the base model, at its end. Raises RuntimeError if it failed."""
        if job_id not in self._jobs:
            self._jobs[job_id] = await self._train(job_id, values)
        return self._jobs[job_id]

    async def _train(self, job_id: str, values: Spec) -> training_service_pb2.TrainingJob:
        values = {
            "base_model": self.base_model,
            "output_model_id": job_id,
            "distribution": self.recipe()["distribution"],
            "max_restarts": 2,
            **values,
            "hyperparameters": {**values["hyperparameters"], "seed": str(self.seed)},
        }
        spec = ParseDict(values, training_service_pb2.TrainingSpec())
        started = time.monotonic()
        job = await self.client.create_training_job(job_id, spec, request_id=once(job_id))
        async for event in self.client.watch_training_job(job.name):
            job = event.training_job
        if not job.model:
            raise self._failed(job_id, job.error.message)
        say(f"seed {self.seed}: trained {job_id}", since=started)
        return job

    async def curve(self, job: str) -> list[Mapping[str, float]]:
        """What a training job measured, step by step."""
        points = {}
        async for event in self.client.watch_training_job(job):
            progress = event.training_job.progress
            points[progress.completed_steps] = dict(progress.metrics)
        return [points[step] for step in sorted(points) if points[step]]

    async def answers(self, model: str, split: str, *, draw: int = 0) -> list[Answered]:
        """A model's answers to the prompts of a split at temperature 1. All models draw with the same seeds."""
        records = [record async for record in self.client.stream_records(self.dataset, splits=[split])]
        found: dict[str, content_pb2.Content] = {}
        for start in range(0, len(records), ITEMS_PER_REQUEST):
            request = refinement_service_pb2.GenerateRequest(model=model)
            request.sampling.temperature = 1.0
            for index, record in enumerate(records[start : start + ITEMS_PER_REQUEST], start):
                seed = (self.seed * 100 + draw) * 100_003 + index
                request.items.add(id=record.id, prompt=record.prompt, seed=seed)
            async for result in self.client.generate(request):
                if result.HasField("response"):
                    found[result.id] = result.response.content
        return [Answered(record, found.get(record.id)) for record in records]

    async def feedback(self, answered: Sequence[Answered]) -> list[record_pb2.Feedback]:
        """The oracle's feedback on each answer, without scores where it cannot be read."""
        return [await self._feedback(one) for one in answered]

    async def _feedback(self, one: Answered) -> record_pb2.Feedback:
        if one.answer is None:
            return record_pb2.Feedback()
        digests = {medium.sha256 for medium in media_of([one.record.prompt, one.answer])}
        media = {digest: await self.client.get_media(digest) for digest in digests}
        return oracle.check(pieces(one.record.prompt, media), pieces(one.answer, media), one.record.subtask)

    async def correct(self, model: str, split: str) -> dict[str, list[bool]]:
        """Whether a model's answers to the prompts of a split are fully correct, prompt by prompt, by subtask."""
        answered = await self.answers(model, split)
        verdicts: dict[str, list[bool]] = {}
        for one, feedback in zip(answered, await self.feedback(answered), strict=True):
            verdicts.setdefault(one.record.subtask, []).append(oracle.correct(feedback))
        return verdicts

    def _failed(self, job_id: str, problem: str) -> RuntimeError:
        folder = self.plan.folder(self.seed)
        return RuntimeError(f"seed {self.seed}, {job_id}: {problem}; '{folder}' keeps it, remove it to begin again")


@contextlib.asynccontextmanager
async def opened(plan: Plan, seed: int) -> AsyncIterator[Bench]:
    """The bench of a seed, while the block runs."""
    folder = plan.folder(seed)
    async with embedded(folder / "root") as stack, AsyncClient(stack.address) as client:
        bench = Bench(client, seed=seed, plan=plan)
        await bench.prepare(folder / "data")
        yield bench


def once(job_id: str) -> str:
    """The request id of a job: asking for the job again gives the same one, and a changed spec is refused."""
    return str(uuid.uuid5(uuid.NAMESPACE_OID, job_id))


def say(text: str, *, since: float) -> None:
    """A line of progress, with the minutes since the start and the seconds that it took."""
    now = time.monotonic()
    print(f"[{(now - STARTED) / 60:6.1f} min] {text} ({now - since:.0f} s)", flush=True)
