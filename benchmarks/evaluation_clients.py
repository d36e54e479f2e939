"""One of the two clients that `benchmarks.evaluation` compares, in a process of its own: prints what it measured.

`ours` is an evaluation on the stack of a laptop, from the request to the end of the job with its report, and then the
same once more. `plain` is what a script does: an `openai.AsyncOpenAI`, a semaphore and a gather; each answer is judged
as soon as it is there, and the ratings are averaged. Both send the same conversations with the same settings.
"""

import argparse
import asyncio
import json
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import openai

from benchmarks.engine_clients import REQUEST_SECONDS, messages_of_turns, picture
from benchmarks.evaluation_endpoint import JUDGE, MODELS
from omnialign.client import AsyncClient
from omnialign.content import content
from omnialign.modeling import answers_json
from omnialign.modeling.benchmark_items import CATEGORIES
from omnialign.modeling.inputs import pieces
from omnialign.modeling.prompts import Rendered, ask_understanding, render_response, render_understanding
from omnialign.v1 import content_pb2, evaluation_service_pb2, generation_pb2, record_pb2
from services.evaluation.job import ANSWER, SCORE, Job
from services.inference.config import EngineConfig
from services.pipeline.kind import stage_of
from services.pipeline.planning import record_seed

Record = record_pb2.Record
Media = Mapping[str, bytes]
SEED, TOKENS = 7, 64
JSON = generation_pb2.ANSWER_FORM_JSON


def make_items(count: int) -> list[tuple[Record, bytes]]:
    """Questions about pictures, the same ones in every run, with references; every second one has its picture."""
    random, items = np.random.default_rng(0), []
    for index in range(count):
        record = Record(id=f"item-{index:04d}", subtask="ti2t" if index % 2 else "t2t", split="test")
        record.prompt.CopyFrom(content(f"What does picture {index} show, and how do you know? " * 4))
        record.benchmark_item.category = CATEGORIES[index % len(CATEGORIES)]
        for number in range(3):
            record.benchmark_item.references.add(answer=f"It shows noise, seen {index} times, says {number}. " * 2)
        items.append((record, picture(random) if index % 2 else b""))
    return items


# ---- plain ----


async def plain(items: Sequence[tuple[Record, bytes]], settings: argparse.Namespace) -> dict[str, Any]:
    """Has each model answer each item, and the judge rate each answer, as a script would."""
    slots = asyncio.Semaphore(settings.at_once)
    async with openai.AsyncOpenAI(base_url=settings.base_url, api_key="none", timeout=REQUEST_SECONDS) as client:

        async def ask(model: str, rendered: Rendered, *, seed: int, schema: str = "") -> str:
            options: dict[str, Any] = {}
            if schema:
                form = {"name": "answer", "schema": json.loads(schema), "strict": True}
                options["response_format"] = {"type": "json_schema", "json_schema": form}
            async with slots:
                answer = await client.chat.completions.create(
                    model=model,
                    messages=messages_of_turns(rendered),
                    temperature=0.0,
                    seed=seed,
                    max_tokens=TOKENS,
                    **options,
                )
            return answer.choices[0].message.content or ""

        async def rate(record: Record, media: Media, model: str) -> int:
            prompt, wanted = pieces(record.prompt, media), record.benchmark_item
            answer = await ask(model, render_response(prompt), seed=_seed(record, ANSWER))
            question = ask_understanding(JSON, wanted.category)
            asked = render_understanding(
                prompt, (answer,), wanted.references, wanted.category, template=question.template
            )
            words = await ask(JUDGE, asked, seed=_seed(record, SCORE), schema=question.json_schema)
            return answers_json.read_rating(words).score

        with_media = [(record, _reference(record, data)) for record, data in items]
        begun = time.perf_counter(), time.process_time()
        found = {
            model: asyncio.gather(*(rate(record, media, model) for record, media in with_media)) for model in MODELS
        }
        means = {model: fmean(await ratings) for model, ratings in found.items()}
        return {"seconds": time.perf_counter() - begun[0], "processor": time.process_time() - begun[1], "means": means}


def _seed(record: Record, stage: str) -> int:
    return record_seed(SEED, stage=stage, record_id=record.id)


def _reference(record: Record, data: bytes) -> dict[str, bytes]:
    """Adds the picture to the prompt, under a digest that only this process knows."""
    if not data:
        return {}
    record.prompt.parts.add(media=content_pb2.Media(modality=content_pb2.MODALITY_IMAGE, sha256=record.id))
    return {record.id: data}


# ---- ours ----


async def ours(items: Sequence[tuple[Record, bytes]], settings: argparse.Namespace) -> dict[str, Any]:
    """Runs an evaluation, and the same again."""
    from services.embedded import embedded  # what it needs takes seconds to import

    os.environ[f"{EngineConfig.ENV_PREFIX}OPENAI_ENDPOINTS"] = settings.base_url
    os.environ[f"{EngineConfig.ENV_PREFIX}OPENAI_CONCURRENCY"] = str(settings.at_once)
    with tempfile.TemporaryDirectory() as folder:
        async with embedded(Path(folder)) as stack, AsyncClient(stack.address) as client:
            spec = await _spec(client, items, settings.base_url)
            first = await _evaluate(client, spec, "first")
            second = await _evaluate(client, spec, "second")
    same = [s.SerializeToString() for s in first["job"].scores] == [s.SerializeToString() for s in second["job"].scores]
    means = {
        score.model.rpartition("#")[2]: score.value
        for score in first["job"].scores
        if score.measure == "understanding" and not score.group
    }
    again = {
        "again_seconds": second["seconds"],
        "again_processor": second["processor"],
        "again_reused": second["reused"],
    }
    return {"seconds": first["seconds"], "processor": first["processor"], "means": means, "same": same, **again}


async def _spec(
    client: AsyncClient, items: Sequence[tuple[Record, bytes]], base_url: str
) -> evaluation_service_pb2.EvaluationSpec:
    """Stores the items, and says what is to be done with them."""
    for record, data in items:
        if data:
            record.prompt.parts.add(media=await client.upload_media(data, modality=content_pb2.MODALITY_IMAGE))
    dataset = await client.create_dataset("items")
    await client.append_records(dataset.name, [record for record, _ in items])
    version = await client.commit_version(dataset.name)
    sampling = generation_pb2.SamplingParams(max_new_tokens=TOKENS)
    judge = evaluation_service_pb2.BenchmarkJudge(model=f"openai+{base_url}#{JUDGE}", sampling=sampling)
    return evaluation_service_pb2.EvaluationSpec(
        models=[f"openai+{base_url}#{name}" for name in MODELS],
        benchmarks=[evaluation_service_pb2.Benchmark(name="amu", dataset=version.name, judges=[judge])],
        sampling=sampling,
        seed=SEED,
    )


async def _evaluate(client: AsyncClient, spec: evaluation_service_pb2.EvaluationSpec, name: str) -> dict[str, Any]:
    """One evaluation, from the request to its end. Raises RuntimeError unless it scored every answer."""
    begun = time.perf_counter(), time.process_time()
    job: Job = await client.create_evaluation(name, spec)
    async for event in client.watch_evaluation(job.name):
        job = event.evaluation
    seconds, processor = time.perf_counter() - begun[0], time.process_time() - begun[1]
    stages = [stage_of(job, stage) for stage in (ANSWER, SCORE)]
    if job.state != Job.STATE_SUCCEEDED or any(stage.completed != stage.total for stage in stages):
        raise RuntimeError(f"the evaluation is not whole: {job}")
    reused = sum(stage.reused for stage in stages)
    return {"job": job, "seconds": seconds, "processor": processor, "reused": reused}


def main() -> None:
    """Runs one client and prints its JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evaluation_clients", description=__doc__)
    parser.add_argument("client", choices=("ours", "plain"))
    parser.add_argument("--base-url", required=True)
    parser.add_argument("--items", type=int, required=True)
    parser.add_argument("--at-once", type=int, required=True)
    settings = parser.parse_args()
    found = asyncio.run({"ours": ours, "plain": plain}[settings.client](make_items(settings.items), settings))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
