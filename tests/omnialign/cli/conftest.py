# ruff: noqa: N802  the names of RPCs
"""A real server in a thread of its own: the data service, and services of jobs that tell short stories."""

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

import pytest
from google.protobuf import empty_pb2
from typer.testing import CliRunner, Result

from benchmarks.null_services import Behaviour, add_models
from omnialign.cli.main import app
from omnialign.errors import FailedPrecondition, InvalidArgument, NotFound
from omnialign.v1 import alignment_service_pb2 as messages
from omnialign.v1 import (
    alignment_service_pb2_grpc,
    evaluation_service_pb2,
    evaluation_service_pb2_grpc,
    training_service_pb2,
    training_service_pb2_grpc,
)
from services.annotation import __main__ as annotation
from services.annotation.config import AnnotationConfig
from services.data import __main__ as data
from services.data.config import DataConfig
from services.runtime.config import ServerConfig
from services.runtime.server import Server

Job = messages.AlignmentJob
REPORT = b"""{"subtasks": {"t2i": {"base": 0.25, "aligned": 0.75, "gain": 0.5, "gain_interval": [0.4, 0.6],
"win_rate": null}}, "mean": {"base": 0.25, "aligned": 0.75, "gain": 0.5, "gain_interval": [0.4, 0.6], "win_rate": 0.9},
"pairs": {"tried": 4, "kept": 2, "tied": 1, "lost": 1, "abstained": 0}}"""


class Alignment(alignment_service_pb2_grpc.AlignmentServiceServicer):
    """Accepts jobs, and plays two events for each; a job whose id ends in `fail` fails."""

    def __init__(self) -> None:
        self.jobs: dict[str, Job] = {}
        self.reviews: dict[str, messages.PairReview] = {}
        """Of any job, by record id."""
        self.waiting = threading.Event()

    async def CreateAlignmentJob(self, request, context):
        job = Job(name=f"{request.parent}/alignmentJobs/{request.alignment_job_id or 'chosen'}", state=Job.STATE_QUEUED)
        job.spec.CopyFrom(request.alignment_job.spec)
        job.preflight.prompts = 7
        job.preflight.warnings.append("Few prompts.")
        if job.spec.feedback_split == "nowhere":
            violations = [("spec.feedback_split", "no record is in it")]
            raise InvalidArgument("The split is empty.", reason="SPLIT_EMPTY", violations=violations)
        if not request.validate_only:
            self.jobs[job.name] = job
        return job

    async def ListPairReviews(self, request, context):
        found = [review for review in self.reviews.values() if not request.pending_only or not review.decision]
        return messages.ListPairReviewsResponse(reviews=found)

    async def ReviewPair(self, request, context):
        review = self.reviews[request.record_id]
        review.decision, review.reason, review.reviewer = request.decision, request.reason, "ada"
        review.refinement.CopyFrom(request.refinement)
        return messages.ReviewPairResponse(review=review)

    async def GetAlignmentJob(self, request, context):
        return self._job(request.name)

    async def ListAlignmentJobs(self, request, context):
        return messages.ListAlignmentJobsResponse(alignment_jobs=self.jobs.values())

    async def CancelAlignmentJob(self, request, context):
        job = self._job(request.name)
        job.state = Job.STATE_CANCELLED
        return job

    async def DeleteAlignmentJob(self, request, context):
        job = self._job(request.name)
        if job.state not in (Job.STATE_SUCCEEDED, Job.STATE_FAILED, Job.STATE_CANCELLED):
            raise FailedPrecondition("The job has not ended.", reason="JOB_STATE")
        del self.jobs[request.name]
        return empty_pb2.Empty()

    async def WatchAlignmentJob(self, request, context):
        job = self._job(request.name)
        if job.state == Job.STATE_CANCELLED:
            yield messages.WatchAlignmentJobResponse(sequence=1, message="it is over", alignment_job=job)
            return
        job.state = Job.STATE_RUNNING
        stage = job.stages.add(stage="sample", state=2, completed=3, total=8, tokens=90, quarantined=1)
        stage.elapsed.FromSeconds(3)
        yield messages.WatchAlignmentJobResponse(sequence=1, message="sampling began", alignment_job=job)
        if job.name.endswith("slow"):
            self.waiting.set()
            await asyncio.Event().wait()
        failed = job.name.endswith("fail")
        job.state = Job.STATE_FAILED if failed else Job.STATE_SUCCEEDED
        job.error.message = "Too many records were set aside." if failed else ""
        job.pairs.tried, job.pairs.kept, job.pairs.lost = 4, 3, 1
        yield messages.WatchAlignmentJobResponse(sequence=2, message="it is over", alignment_job=job)

    async def GetAlignmentReport(self, request, context):
        html = request.format == messages.GetAlignmentReportRequest.FORMAT_HTML
        yield messages.GetAlignmentReportResponse(chunk=b"<!doctype html>" if html else REPORT)

    def _job(self, name: str) -> Job:
        if name not in self.jobs:
            raise NotFound(f"There is no job '{name}'.", reason="JOB_NOT_FOUND", metadata={"name": name})
        return self.jobs[name]


TrainingJob = training_service_pb2.TrainingJob
MEMORY = training_service_pb2.MemoryEstimate(weights_bytes=3 * 10**9, total_bytes=5 * 10**9, device_bytes=8 * 10**9)


class Training(training_service_pb2_grpc.TrainingServiceServicer):
    """Accepts jobs, and plays three events for each; a job whose id ends in `fail` fails."""

    def __init__(self) -> None:
        self.jobs: dict[str, TrainingJob] = {}

    async def CreateTrainingJob(self, request, context):
        job = TrainingJob(name=f"{request.parent}/trainingJobs/{request.training_job_id or 'chosen'}", state=1)
        job.spec.CopyFrom(request.training_job.spec)
        if request.validate_only:
            job.memory.CopyFrom(MEMORY)
            return job
        self.jobs[job.name] = job
        return job

    async def GetTrainingJob(self, request, context):
        return self._job(request.name)

    async def ListTrainingJobs(self, request, context):
        return training_service_pb2.ListTrainingJobsResponse(training_jobs=self.jobs.values())

    async def CancelTrainingJob(self, request, context):
        job = self._job(request.name)
        job.state = TrainingJob.STATE_CANCELLED
        return job

    async def WatchTrainingJob(self, request, context):
        job = self._job(request.name)
        job.state = TrainingJob.STATE_RUNNING
        job.condition.reason, job.condition.message = "READING_RECORDS", "reading records, 30 of 120"
        yield training_service_pb2.WatchTrainingJobResponse(sequence=1, training_job=job)
        job.ClearField("condition")
        job.progress.completed_steps, job.progress.total_steps = 40, 80
        job.progress.metrics["loss"], job.progress.metrics["grad_norm"] = 0.4125, 9.4
        job.progress.eta.FromSeconds(75)
        yield training_service_pb2.WatchTrainingJobResponse(sequence=2, training_job=job)
        if job.name.endswith("fail"):
            job.state = TrainingJob.STATE_FAILED
            job.error.message = "The loss is not a number."
            job.log_tail.append("step 40: loss nan")
        else:
            job.state = TrainingJob.STATE_SUCCEEDED
            job.model = "projects/default/models/tuned/versions/1"
        yield training_service_pb2.WatchTrainingJobResponse(sequence=3, training_job=job)

    async def StreamTrainingLog(self, request, context):
        self._job(request.name)
        lines = ["step 1", "step 2 \x1b[31m"][-request.tail_lines :]
        yield training_service_pb2.StreamTrainingLogResponse(lines=lines, position=99)

    def _job(self, name: str) -> TrainingJob:
        if name not in self.jobs:
            raise NotFound(f"There is no job '{name}'.", reason="JOB_NOT_FOUND", metadata={"name": name})
        return self.jobs[name]


class NoEvaluations(evaluation_service_pb2_grpc.EvaluationServiceServicer):
    """Has none; a real one runs in the tests of its commands."""

    async def ListEvaluations(self, request, context):
        return evaluation_service_pb2.ListEvaluationsResponse()


@dataclass(frozen=True)
class Running:
    """A server that runs, and its services of jobs."""

    address: str
    alignment: Alignment
    training: Training


@pytest.fixture(scope="module")  # job kinds of one process share their workflow database
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    ready: Future[Running] = Future()
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()
    thread = threading.Thread(
        target=loop.run_until_complete, args=(_serve(tmp_path_factory.mktemp("data"), ready, stop),)
    )
    thread.start()
    try:
        yield ready.result(timeout=30)
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(timeout=30)
        loop.close()


async def _serve(root: Path, ready: Future[Running], stop: asyncio.Event) -> None:
    server, alignment, training = Server(ServerConfig(), name="test"), Alignment(), Training()
    address = server.bind()
    people = annotation.wire(
        server, AnnotationConfig(root=root / "annotation", data_address=address, refinement_address=address)
    )
    async with data.wire(server, DataConfig(root=root / "data")), people:
        add_models(server, Behaviour(log=False))
        full_name = messages.DESCRIPTOR.services_by_name["AlignmentService"].full_name
        server.add(alignment_service_pb2_grpc.add_AlignmentServiceServicer_to_server, alignment, full_name)
        full_name = training_service_pb2.DESCRIPTOR.services_by_name["TrainingService"].full_name
        server.add(training_service_pb2_grpc.add_TrainingServiceServicer_to_server, training, full_name)
        full_name = evaluation_service_pb2.DESCRIPTOR.services_by_name["EvaluationService"].full_name
        server.add(evaluation_service_pb2_grpc.add_EvaluationServiceServicer_to_server, NoEvaluations(), full_name)
        await server.start()
        server.set_serving()
        ready.set_result(Running(server.address, alignment, training))
        await stop.wait()
        await server.stop(0)


@pytest.fixture
def run(server: Running, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Runs the command with the test's server as its own."""
    monkeypatch.setenv("OMNIALIGN_ADDRESS", server.address)
    return lambda *words: CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture
def specification_of(run: Callable[..., Result], tmp_path: Path) -> Callable[[str, dict[str, object]], Path]:
    """Imports a row as the dataset of a job, and writes the job's specification to a file."""

    def write(dataset: str, values: dict[str, object]) -> Path:
        folder = tmp_path / "source" / "text-to-text"
        folder.mkdir(parents=True)
        rows = [{"question": "one", "response_1": "1", "response_2": "2", "overall_response": 1}]
        (folder / "train.json").write_text(json.dumps(rows))
        assert run("data", "import", dataset, folder.parent).exit_code == 0
        path = tmp_path / "job.json"
        path.write_text(json.dumps(values))
        return path

    return write
