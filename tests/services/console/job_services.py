"""Job services that hold the jobs which a test gives them, and note what they are told to do."""

import asyncio
from typing import Any

from google.protobuf import empty_pb2

from omnialign.errors import FailedPrecondition, NotFound
from omnialign.v1 import (
    alignment_service_pb2,
    alignment_service_pb2_grpc,
    evaluation_service_pb2,
    evaluation_service_pb2_grpc,
    training_service_pb2,
    training_service_pb2_grpc,
)
from services.runtime.server import Server


class Jobs:
    """Jobs of all kinds by name, their events, and what was asked for."""

    def __init__(self) -> None:
        self.jobs: dict[str, Any] = {}
        self.events: dict[str, list[Any]] = {}
        self.asked: list[tuple[str, str]] = []
        self.reports: dict[str, bytes] = {}
        self.resumed_after: list[int] = []
        self.more = asyncio.Event()
        """Set when a watch may look for further events."""
        self.created: list[Any] = []

    def add(self, job: Any, *events: Any) -> Any:
        self.jobs[job.name] = job
        self.events[job.name] = list(events)
        return job

    def get(self, name: str) -> Any:
        if name not in self.jobs:
            raise NotFound(f"There is no '{name}'", reason="NOT_FOUND")
        return self.jobs[name]

    def of(self, parent: str, collection: str) -> list[Any]:
        return [job for name, job in self.jobs.items() if name.startswith(f"{parent}/{collection}/")]

    def act(self, action: str, name: str) -> Any:
        job = self.get(name)
        if action == "refuse":
            raise FailedPrecondition("It is not running.", reason="JOB_STATE")
        self.asked.append((action, name))
        return job

    async def watch(self, request: Any) -> Any:
        self.get(request.name)
        self.resumed_after.append(request.resume_after)
        position = request.resume_after
        while True:
            events = self.events[request.name]
            for event in events[position:]:
                position += 1
                yield event
            ended = {"STATE_SUCCEEDED", "STATE_FAILED", "STATE_CANCELLED"}
            if self.jobs[request.name].State.Name(self.jobs[request.name].state) in ended:
                return
            await self.more.wait()
            self.more.clear()


def _servicer(base: type, jobs: Jobs, *, kind: str, collection: str, list_response: Any, field: str) -> Any:
    """The servicer of one kind: what each of its calls does with the jobs."""

    async def listed(self: Any, request: Any, context: Any) -> Any:
        return list_response(**{field: jobs.of(request.parent, collection)})

    async def get(self: Any, request: Any, context: Any) -> Any:
        return jobs.get(request.name)

    async def watch(self: Any, request: Any, context: Any) -> Any:
        async for event in jobs.watch(request):
            yield event

    def action(name: str) -> Any:
        async def act(self: Any, request: Any, context: Any) -> Any:
            found = jobs.act(name, request.name)
            return empty_pb2.Empty() if name == "delete" else found

        return act

    methods = {f"List{kind}s": listed, f"Get{kind}": get, f"Watch{kind}": watch}
    methods |= {f"{name.capitalize()}{kind}": action(name) for name in ("pause", "resume", "cancel", "delete")}
    return type(kind, (base,), methods)


def add_job_services(server: Server, jobs: Jobs) -> None:
    """Adds the three to a server."""
    alignment = _servicer(
        alignment_service_pb2_grpc.AlignmentServiceServicer,
        jobs,
        kind="AlignmentJob",
        collection="alignmentJobs",
        list_response=alignment_service_pb2.ListAlignmentJobsResponse,
        field="alignment_jobs",
    )

    async def alignment_report(self: Any, request: Any, context: Any) -> Any:
        yield alignment_service_pb2.GetAlignmentReportResponse(chunk=jobs.reports[request.name])

    async def create(self: Any, request: Any, context: Any) -> Any:
        jobs.created.append(request)
        job = alignment_service_pb2.AlignmentJob()
        job.CopyFrom(request.alignment_job)
        job.name = f"{request.parent}/alignmentJobs/{request.alignment_job_id or 'chosen'}"
        job.preflight.prompts = 7
        job.preflight.warnings.append("<b>unusual</b>")
        return job if request.validate_only else jobs.add(job)

    alignment.GetAlignmentReport = alignment_report
    alignment.CreateAlignmentJob = create
    training = _servicer(
        training_service_pb2_grpc.TrainingServiceServicer,
        jobs,
        kind="TrainingJob",
        collection="trainingJobs",
        list_response=training_service_pb2.ListTrainingJobsResponse,
        field="training_jobs",
    )

    async def log(self: Any, request: Any, context: Any) -> Any:
        job = jobs.get(request.name)
        yield training_service_pb2.StreamTrainingLogResponse(lines=job.log_tail, position=1)

    training.StreamTrainingLog = log
    evaluation = _servicer(
        evaluation_service_pb2_grpc.EvaluationServiceServicer,
        jobs,
        kind="Evaluation",
        collection="evaluations",
        list_response=evaluation_service_pb2.ListEvaluationsResponse,
        field="evaluations",
    )

    async def compare(self: Any, request: Any, context: Any) -> Any:
        jobs.asked.append(("compare", f"{request.name} {request.baseline}"))
        one = evaluation_service_pb2.ScoreComparison(benchmark="amu", measure="understanding", items=40)
        one.value, one.baseline_value, one.low, one.high, one.p_value = 6.5, 5.0, 0.5, 2.5, 0.01
        return evaluation_service_pb2.CompareEvaluationsResponse(comparisons=[one])

    evaluation.CompareEvaluations = compare
    for register, servicer, module, name in (
        (
            alignment_service_pb2_grpc.add_AlignmentServiceServicer_to_server,
            alignment(),
            alignment_service_pb2,
            "Alignment",
        ),
        (training_service_pb2_grpc.add_TrainingServiceServicer_to_server, training(), training_service_pb2, "Training"),
        (
            evaluation_service_pb2_grpc.add_EvaluationServiceServicer_to_server,
            evaluation(),
            evaluation_service_pb2,
            "Evaluation",
        ),
    ):
        server.add(register, servicer, module.DESCRIPTOR.services_by_name[f"{name}Service"].full_name)
