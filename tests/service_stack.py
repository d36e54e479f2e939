"""The alignment service among real servers: the data service, and null models and training, each on its own port."""

import contextlib
import json
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.null_services import Behaviour, NullTraining, add_models, add_training
from omnialign.client import AsyncClient
from omnialign.content import content
from omnialign.v1 import alignment_service_pb2, record_pb2
from services.alignment.__main__ import AlignmentConfig
from services.alignment.__main__ import wire as wire_alignment
from services.data.__main__ import wire as wire_data
from services.data.config import DataConfig
from services.runtime.config import ServerConfig
from services.runtime.server import Server
from tests.processes import free_port

Job = alignment_service_pb2.AlignmentJob
SECONDS = 90.0
"""Longest wait for something that takes a moment: test machines can be slow."""


class ServiceStack:
    """Servers that can be stopped and started again one by one, on the same ports and folders."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.behaviour = Behaviour()
        self.training = NullTraining(self.behaviour)
        self.ports = {name: free_port() for name in ("data", "models", "training", "alignment")}
        self.settings: dict[str, Any] = {}
        self.data_settings: dict[str, Any] = {}
        self._running: dict[str, contextlib.AsyncExitStack] = {}
        self._clients = contextlib.AsyncExitStack()
        self.client: AsyncClient

    async def start(self, *names: str) -> None:
        """Starts the servers named, or all."""
        for name in names or tuple(self.ports):
            stack = contextlib.AsyncExitStack()
            server = Server(ServerConfig(port=self.ports[name], reflection=False), name=name)
            await stack.enter_async_context(self._wired(name, server))
            await server.start()
            server.set_serving()
            stack.push_async_callback(server.stop, 0)
            self._running[name] = stack

    async def stop(self, *names: str) -> None:
        """Stops the servers named, or all."""
        for name in names or tuple(reversed(self._running)):
            await self._running.pop(name).aclose()

    async def open(self) -> None:
        """Starts everything and opens a client to it."""
        await self.start()
        self.client = await self.connect("data")
        self.alignment = await self.connect("alignment")

    async def connect(self, name: str) -> AsyncClient:
        """A client of one server."""
        return await self._clients.enter_async_context(AsyncClient(f"127.0.0.1:{self.ports[name]}"))

    async def close(self) -> None:
        """Stops everything."""
        for event in self.behaviour.holds.values():
            event.set()
        await self._clients.aclose()
        await self.stop()
        await self.training.close()

    def config(self) -> AlignmentConfig:
        """The alignment service's configuration."""
        addresses = {
            f"{service}_address": f"127.0.0.1:{self.ports[server]}"
            for service, server in (
                ("data", "data"),
                ("refinement", "models"),
                ("critique", "models"),
                ("judge", "models"),
                ("training", "training"),
            )
        }
        settings = {"retry_cap_seconds": 0.2, "queue_polling_seconds": 0.1, **self.settings}
        return AlignmentConfig(root=self.root / "alignment", **addresses, **settings)

    @contextlib.asynccontextmanager
    async def _wired(self, name: str, server: Server) -> AsyncIterator[None]:
        if name == "data":
            async with wire_data(server, DataConfig(root=self.root / "data", **self.data_settings)):
                yield
        elif name == "alignment":
            async with wire_alignment(server, self.config()):
                yield
        else:
            add_models(server, self.behaviour) if name == "models" else add_training(server, self.training)
            yield

    # ---- what tests do with it ----

    async def register_model(self, model_id: str = "base", *, codecs: Sequence[str] = ()) -> str:
        """Registers a model folder without a tokenizer that works, and with these codecs; returns its name."""
        import numpy as np
        from safetensors.numpy import save_file

        folder = self.root / "models" / model_id
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps({"model_type": "llama", "max_position_embeddings": 512}))
        if codecs:
            (folder / "tokenizer.json").write_text("{}")
            (folder / "codecs.json").write_text(json.dumps({"codecs": [{"type": kind} for kind in codecs]}))
        save_file({"weight": np.zeros((4, 4), dtype=np.float32)}, folder / "model.safetensors")
        return (await self.client.register_model(model_id, folder.as_uri())).name

    async def make_dataset(
        self, *, annotated: int = 6, prompts: int = 10, test: int = 4, dataset_id: str = "world", **change: Any
    ) -> str:
        """A dataset with three splits; returns the name of its version."""
        dataset = await self.client.create_dataset(dataset_id)
        records = [annotated_record(f"train-{i:03d}") for i in range(annotated)]
        records += [prompt_record(f"prompt-{i:03d}", split="prompts") for i in range(prompts)]
        records += [prompt_record(f"test-{i:03d}", split="test") for i in range(test)]
        await self.client.append_records(dataset.name, records)
        return (await self.client.commit_version(dataset.name)).name

    async def spec(self, **fields: Any) -> alignment_service_pb2.AlignmentSpec:
        """A spec over a new dataset and model; give the dataset's sizes as `annotated`, `prompts` and `test`."""
        sizes = {key: fields.pop(key) for key in ("annotated", "prompts", "test") if key in fields}
        dataset = fields.pop("dataset", None) or await self.make_dataset(**sizes)
        base = fields.pop("base_model", None) or await self.register_model()
        values: dict[str, Any] = {"chunk_size": 4, "seed": 7, **fields}
        return alignment_service_pb2.AlignmentSpec(base_model=base, dataset=dataset, **values)

    async def submit(self, job_id: str = "first", **fields: Any) -> Job:
        """Submits a job."""
        return await self.alignment.create_alignment_job(job_id, await self.spec(**fields))

    async def end_of(self, name: str) -> Job:
        """Waits for a job to end and returns it."""
        job = None
        async for event in self.alignment.watch_alignment_job(name):
            job = event.alignment_job
        assert job is not None
        return job

    async def until(self, name: str, wanted: Callable[[Job], bool]) -> Job:
        """The job at the first event for which `wanted` is true."""
        async for event in self.alignment.watch_alignment_job(name):
            if wanted(event.alignment_job):
                return event.alignment_job
        raise AssertionError("the job ended before")

    async def until_message(self, name: str, beginning: str) -> None:
        """Returns once an event's message starts with `beginning`."""
        async for event in self.alignment.watch_alignment_job(name):
            if event.message.startswith(beginning):
                return
        raise AssertionError("the job ended before")

    async def records(self, job: Job, purpose: str) -> list[record_pb2.Record]:
        """The rows of one of a job's tables."""
        name = job.name.replace("alignmentJobs", "datasets") + f"-{purpose}"
        return [record async for record in self.client.stream_records(name)]


def prompt_record(record_id: str, *, split: str, subtask: str = "t2t") -> record_pb2.Record:
    """A bare prompt."""
    return record_pb2.Record(
        id=record_id, subtask=subtask, split=split, prompt=content(f"Say {record_id}"), labels={"held_out": "true"}
    )


def annotated_record(record_id: str) -> record_pb2.Record:
    """A prompt with two answers, feedback on the first, and a preference for the first or the second in turn."""
    record = prompt_record(record_id, split="train")
    for words in ("good", "bad"):
        response = record.responses.add(content=content(f"{words} {record_id}"), source="people")
        response.feedback.critique = f"It is {words}."
        response.feedback.scores.add(dimension="prompt_following", score=2)
    record.preference.preferred = 1 + int(record_id[-1]) % 2
    return record


def stage_status(job: Job, name: str) -> alignment_service_pb2.StageStatus:
    """The status of a stage."""
    return next(status for status in job.stages if status.stage == name)
