"""The running stack under a real Prometheus and a real OTLP collector, while a small real alignment job runs.

All is real but the judge: one that has learnt enough to keep a pair would take minutes of training, so its answers are
made up, most of them in favour of the refinement. An endpoint that is busy at first is asked beside the job.
"""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from aiohttp import ClientSession, web

from benchmarks.null_services import Behaviour, NullJudge
from examples.tinyworld import dataset, recipe
from omnialign.cli import spec as specs
from omnialign.client import AsyncClient
from omnialign.errors import NotFound
from omnialign.v1 import (
    alignment_service_pb2,
    annotation_pb2,
    annotation_service_pb2,
    content_pb2,
    evaluation_service_pb2,
    judge_service_pb2_grpc,
    record_pb2,
    refinement_service_pb2,
)
from services.embedded import embedded
from services.judge import __main__ as judge
from services.runtime.server import Server
from tests.observability.collector import Collector, running_collector
from tests.observability.expressions import RULES
from tests.observability.prometheus import Prometheus, running_prometheus
from tests.processes import free_port
from tests.services.inference.stub_endpoint import Stub, echo, fails, serve_stub
from training.metrics import PORT_VARIABLE

Job = alignment_service_pb2.AlignmentJob
NAMESPACE = "lab"
TRAINING_STEPS = 20
VERDICTS = (record_pb2.VERDICT_WIN, record_pb2.VERDICT_WIN, record_pb2.VERDICT_TIE, record_pb2.VERDICT_LOSS)
SETTLE_SECONDS = 6
"""Scrapes and rule evaluations after the job's end that the last numbers need; both come once a second."""


@dataclass
class ObservedStack:
    """What tests can inspect while the stack runs. The job has ended."""

    prometheus: Prometheus
    collector: Collector
    job: Job


@contextlib.asynccontextmanager
async def observed_stack(folder: Path) -> AsyncIterator[ObservedStack]:
    """Runs the job to its end under observation, then yields what there is to inspect."""
    run_port = free_port()
    async with running_collector() as collector, serve_stub() as endpoint:
        settings = {
            PORT_VARIABLE: str(run_port),
            "OMNIALIGN_TRACING_ENDPOINT": f"http://{collector.address}",
            "OMNIALIGN_ENGINE_OPENAI_ENDPOINTS": endpoint.base_url,
        }
        with _environment(settings), mock.patch.object(judge, "wire", _judge):
            async with embedded(folder / "root", metrics_port=0, console_port=0) as stack:
                targets = {stack.metrics_address: _labels("stack"), f"127.0.0.1:{run_port}": _labels("trainer")}
                async with running_prometheus(folder / "prometheus", targets=targets, rules=RULES) as prometheus:
                    async with asyncio.TaskGroup() as group:
                        group.create_task(_ask(stack.address, endpoint, prometheus))
                        group.create_task(_browse(stack.console_address, prometheus))
                        running = group.create_task(_run_job(stack.address, folder, prometheus))
                    job = running.result()
                    await asyncio.sleep(SETTLE_SECONDS)
                    yield ObservedStack(prometheus, collector, job)


@contextlib.asynccontextmanager
async def _judge(server: Server, config: Any, *, engine: Any) -> AsyncIterator[None]:
    """Wires a judge that has no model; it abstains now and then, as models do."""

    def verdict(record_id: str) -> record_pb2.Verdict.ValueType:
        number = sum(record_id.encode())
        return record_pb2.VERDICT_ABSTAIN if number % 11 == 0 else VERDICTS[number % len(VERDICTS)]

    servicer = NullJudge(Behaviour(log=False, verdict=verdict))
    server.add(judge_service_pb2_grpc.add_JudgeServiceServicer_to_server, servicer, "omnialign.v1.JudgeService")
    yield


async def _browse(address: str, prometheus: Prometheus) -> None:
    """Opens the console's first page, and again after Prometheus has seen its series: a rate needs two looks."""
    async with ClientSession() as browser:
        for _ in range(2):
            async with browser.get(f"{address}/projects/default/jobs") as page:
                assert page.status == 200
            await asyncio.to_thread(prometheus.await_numbers, "omnialign_console_request_duration_seconds_count")


async def _ask(address: str, endpoint: Stub, prometheus: Prometheus) -> None:
    """Sends the endpoint a few prompts, after it has refused one and Prometheus has seen its series."""

    async def answer(request: web.Request) -> web.StreamResponse:
        await asyncio.to_thread(prometheus.await_numbers, "omnialign_endpoint_request_seconds_count")
        return await echo(request)

    endpoint.acts.append(fails(429))
    endpoint.default = answer
    prompt = content_pb2.Content(parts=[content_pb2.Part(text="Say hello")])
    items = [refinement_service_pb2.GenerateItem(id=str(number), prompt=prompt) for number in range(4)]
    async with AsyncClient(address) as client:
        answers = client.generate(refinement_service_pb2.GenerateRequest(model=endpoint.model(), items=items))
        assert [reply.WhichOneof("result") async for reply in answers] == ["response"] * len(items)


def _labels(component: str) -> dict[str, str]:
    """The labels that the chart's monitors give a target."""
    labels = {"namespace": NAMESPACE, "pod": f"{component}-0", "component": component}
    return labels | ({"training_job": "run"} if component == "trainer" else {})


async def _run_job(address: str, folder: Path, prometheus: Prometheus) -> Job:
    async with AsyncClient(address) as client:
        with contextlib.suppress(NotFound):
            await client.get_dataset("projects/default/datasets/absent")  # a call that does not end well
        job = await client.create_alignment_job("lab", await _spec(client, folder))
        async for event in client.watch_alignment_job(job.name):
            job = event.alignment_job
        await _evaluate(client, job)
        await _annotate(client, prometheus, model=job.models.base)
        return job


async def _annotate(client: AsyncClient, prometheus: Prometheus, *, model: str) -> None:
    """Lets somebody annotate the only pair, and ask for more once Prometheus has seen the calls; a model drafts."""
    text = content_pb2.Content(parts=[content_pb2.Part(text="a word")])
    responses = [record_pb2.Response(content=text)] * 2
    pairs = await client.create_dataset("two-words")
    await client.append_records(
        pairs.name, [record_pb2.Record(id="1", subtask="t2t", prompt=text, responses=responses)]
    )
    version = await client.commit_version(pairs.name)
    campaign = annotation_service_pb2.Campaign(dataset_version=version.name)
    made = await client.create_campaign("lab-people", campaign)
    task = (await client.lease_task(made.name, annotator="ann")).task
    draft = annotation_pb2.Annotation(reason="they are equal")
    await client.save_draft(task.name, draft, revision=0, annotator="ann")
    await client.skip_task(task.name, "they are equal", annotator="ann")
    calls = 'omnialign_rpc_duration_seconds_count{service="omnialign.v1.AnnotationService", method="LeaseTask"}'
    await asyncio.to_thread(prometheus.await_numbers, calls)
    await client.lease_task(made.name, annotator="ann")
    await _draft(client, "lab-drafts", campaign=made.name, model=model)
    await asyncio.to_thread(prometheus.await_numbers, "omnialign_drafting_step_duration_seconds_count")
    again = await client.create_campaign("lab-people-again", campaign)
    await _draft(client, "lab-drafts-again", campaign=again.name, model=model)


async def _draft(client: AsyncClient, job_id: str, *, campaign: str, model: str) -> None:
    """Has a model draft the annotations of a campaign."""
    job = await client.create_draft_job(job_id, annotation_service_pb2.DraftSpec(campaign=campaign, model=model))
    async for event in client.watch_draft_job(job.name):
        job = event.draft_job
    assert job.state == job.STATE_SUCCEEDED, job.error


async def _evaluate(client: AsyncClient, job: Job) -> None:
    """Evaluates the base model on the held-out prompts of the job."""
    benchmark = evaluation_service_pb2.Benchmark(name="checkers", dataset=job.spec.dataset, checkers=["tinyworld"])
    spec = evaluation_service_pb2.EvaluationSpec(
        models=[job.models.base], benchmarks=[benchmark], max_quarantine_fraction=1, chunk_size=2
    )
    evaluation = await client.create_evaluation("lab-evaluation", spec)
    async for event in client.watch_evaluation(evaluation.name):
        evaluation = event.evaluation
    assert evaluation.state == evaluation.STATE_SUCCEEDED, evaluation.error


async def _spec(client: AsyncClient, folder: Path) -> alignment_service_pb2.AlignmentSpec:
    """The demo's job, much smaller, with checkpoints."""
    source = folder / "dataset"
    sizes = dataset.Sizes(train=60, prompts=16, validation=0, test=4)
    await asyncio.to_thread(dataset.write, source, seed=1, sizes=sizes)
    async for progress in client.import_dataset(recipe.DATASET_ID, source.as_uri()):
        version = progress.dataset_version
    model = await client.register_model("base", (Path(recipe.__file__).parent / "model").as_uri())
    wanted = specs.build(recipe.spec(1, dataset=version.name, base_model=model.name))
    wanted.chunk_size, wanted.max_quarantine_fraction = 8, 1.0
    wanted.distribution.num_processes, wanted.distribution.zero_stage = 1, 1  # ZeRO tells the gradient's norm
    wanted.judge_model = model.name  # never loaded; it keeps the job from training one
    for hyperparameters in (wanted.feedback_training, wanted.optimization.hyperparameters):
        hyperparameters.batch_size, hyperparameters.max_steps = 8, TRAINING_STEPS
        hyperparameters.checkpoint_every_steps = 5
        hyperparameters.evaluation.holdout_fraction = 0.2
    return wanted


@contextlib.contextmanager
def _environment(settings: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
