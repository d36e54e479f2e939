"""What the orchestrator costs: sample, critique, refine and verify with models that answer at once.

The real alignment service with the real data service, against a plain asyncio loop over the same model services: the
loop keeps everything in memory and loses it when it dies; the orchestrator commits every record of every stage. All
run in this process and share its core, as they do on a laptop. Real models take a thousand times as long, so this is
the worst case. Both run in turn, and the median of the ratios counts: the machine may get slower or faster meanwhile.

    python -m benchmarks.loop [records]
"""

import asyncio
import contextlib
import json
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.null_services import Behaviour, NullTraining, add_models, add_training
from omnialign.client import AsyncClient
from omnialign.content import content
from omnialign.v1 import (
    alignment_service_pb2,
    critique_service_pb2,
    judge_service_pb2,
    record_pb2,
    refinement_service_pb2,
)
from services.alignment.__main__ import AlignmentConfig
from services.alignment.__main__ import wire as wire_alignment
from services.data.__main__ import wire as wire_data
from services.data.config import DataConfig
from services.pipeline.planning import record_seed
from services.runtime.config import ServerConfig
from services.runtime.server import Server, keep_start_up

Record = record_pb2.Record
RECORDS, CHUNK, CONCURRENCY, REPEATS = 4096, 64, 4, 5
SUBTASK = "t2t"
Times = tuple[float, float]
"""Seconds by the clock, and of the processor."""


def run(records: int = RECORDS) -> dict[str, Any]:
    """Measures both and returns records per second through all four stages."""
    return asyncio.run(_run(records))


async def _run(count: int) -> dict[str, Any]:
    prompts = [_prompt(i) for i in range(count)]
    with tempfile.TemporaryDirectory() as folder:
        async with _stack(Path(folder)) as client:
            dataset, plain, durable = await _store(client, prompts), list[Times](), list[Times]()
            for number in range(REPEATS):
                plain.append(await _with_cpu(_plain(client, prompts)))
                durable.append(await _with_cpu(_durable(client, dataset, number=number)))
    (fast, fast_cpu), (slow, slow_cpu) = (map(median, zip(*runs, strict=True)) for runs in (plain, durable))
    pairs = [(one, other) for (one, _), (other, _) in zip(plain, durable, strict=True)]
    ratios = [one / other for one, other in pairs]
    return {
        "title": "The loop with models that answer at once",
        "about": "Records through sample, critique, refine and verify; medians of runs in turn, all in one process.",
        "records": count,
        "records_per_chunk": CHUNK,
        "repeats": REPEATS,
        "plain_loop_records_per_second": round(count / fast, 1),
        "orchestrator_records_per_second": round(count / slow, 1),
        "ratio": round(median(ratios), 3),
        "least_ratio": round(min(ratios), 3),
        "greatest_ratio": round(max(ratios), 3),
        "orchestrator_overhead_ms_per_record": round(median(slow - fast for fast, slow in pairs) / count * 1000, 3),
        "plain_loop_cpu_ms_per_record": round(fast_cpu / count * 1000, 3),
        "whole_job_cpu_ms_per_record": round(slow_cpu / count * 1000, 3),
    }


async def _with_cpu(run: Awaitable[float]) -> Times:
    """What a run returns, and the processor seconds that this process spent on it, on all cores together."""
    begun = time.process_time()
    return await run, time.process_time() - begun


@contextlib.asynccontextmanager
async def _stack(folder: Path) -> AsyncIterator[AsyncClient]:
    """All services on one port, the models and the training being null."""
    behaviour = Behaviour(log=False)
    server = Server(ServerConfig(reflection=False), name="benchmark")
    address = server.bind()
    addresses = {f"{name}_address": address for name in ("data", "refinement", "critique", "judge", "training")}
    training = NullTraining(behaviour)
    add_models(server, behaviour)
    add_training(server, training)
    config = AlignmentConfig(root=folder / "alignment", **addresses)  # type: ignore[arg-type]
    async with wire_data(server, DataConfig(root=folder / "data")), wire_alignment(server, config):
        await server.start()
        server.set_serving()
        keep_start_up()
        try:
            async with AsyncClient(address) as client:
                yield client
        finally:
            await server.stop(0)
            await training.close()


async def _plain(client: AsyncClient, prompts: list[Record]) -> float:
    """Seconds that the plain loop takes."""
    chunks = [prompts[start : start + CHUNK] for start in range(0, len(prompts), CHUNK)]
    slots, begun = asyncio.Semaphore(CONCURRENCY), time.perf_counter()

    async def work(chunk: list[Record]) -> None:
        async with slots:
            await _chunk(client, chunk)

    await asyncio.gather(*map(work, chunks))
    return time.perf_counter() - begun


async def _chunk(client: AsyncClient, chunk: list[Record]) -> None:
    """The four calls of a chunk, each with what the one before gave."""
    model = "projects/default/models/base/versions/1"
    sampled = {
        answer.id: answer.response
        async for answer in client.generate(
            refinement_service_pb2.GenerateRequest(
                model=model,
                items=[
                    refinement_service_pb2.GenerateItem(id=r.id, prompt=r.prompt, seed=_seed(r, "sample"))
                    for r in chunk
                ],
            )
        )
    }
    feedback = {
        answer.id: answer.feedback
        async for answer in client.critique(
            critique_service_pb2.CritiqueRequest(
                model=model,
                items=[
                    critique_service_pb2.CritiqueItem(
                        id=r.id, prompt=r.prompt, response=sampled[r.id].content, seed=_seed(r, "critique")
                    )
                    for r in chunk
                ],
            )
        )
    }
    refined = {
        answer.id: answer.response
        async for answer in client.refine(
            refinement_service_pb2.RefineRequest(
                model=model,
                items=[
                    refinement_service_pb2.RefineItem(
                        id=r.id,
                        prompt=r.prompt,
                        response=sampled[r.id].content,
                        feedback=feedback[r.id],
                        seed=_seed(r, "refine"),
                    )
                    for r in chunk
                ],
            )
        )
    }
    request = judge_service_pb2.CompareResponsesRequest(
        model=model,
        items=[
            judge_service_pb2.CompareItem(
                id=r.id,
                prompt=r.prompt,
                baseline=sampled[r.id].content,
                candidate=refined[r.id].content,
                seed=_seed(r, "verify"),
            )
            for r in chunk
        ],
    )
    verdicts = [answer async for answer in client.compare_responses(request)]
    assert len(verdicts) == len(chunk)


async def _durable(client: AsyncClient, dataset: str, *, number: int) -> float:
    """Seconds from the plan of the chunks to the end of the last stage, as the job's events tell."""
    spec = alignment_service_pb2.AlignmentSpec(
        base_model="file:///null", dataset=dataset, chunk_size=CHUNK, evaluation_split="train", max_evaluation_prompts=1
    )
    job = await client.create_alignment_job(f"bench-{number}", spec)
    begun = ended = 0
    async for event in client.watch_alignment_job(job.name):
        now, stages = event.event_time.ToNanoseconds(), event.alignment_job.stages
        if not begun and " chunks." in event.message:
            begun = now
        if not ended and next(s for s in stages if s.stage == "verify").state == 3:
            ended = now
        job = event.alignment_job
    assert job.state == alignment_service_pb2.AlignmentJob.STATE_SUCCEEDED, job.error
    return (ended - begun) / 1e9


async def _store(client: AsyncClient, prompts: list[Record]) -> str:
    dataset = await client.create_dataset("bench")
    annotated = _prompt(0)
    annotated.id, annotated.split = "annotated", "train"
    for words in ("good", "bad"):
        annotated.responses.add(content=content(words)).feedback.critique = words
    annotated.preference.preferred = 1
    await client.append_records(dataset.name, [annotated, *prompts])
    return str((await client.commit_version(dataset.name)).name)


def _prompt(number: int) -> Record:
    words = f"Say {number}, and then say it again in other words."
    return Record(id=f"r{number:06d}", subtask=SUBTASK, split="prompts", prompt=content(words))


def _seed(record: Record, stage: str) -> int:
    return record_seed(0, stage=stage, record_id=record.id)


if __name__ == "__main__":
    print(json.dumps(run(*map(int, sys.argv[1:2])), indent=2))
