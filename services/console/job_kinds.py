"""The kinds of job that the console shows, one record each: pages know no kind, and a new kind needs no new page."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from omnialign import names
from omnialign.client import AsyncClient
from omnialign.client.drafts import ENDED_DRAFT_STATES
from omnialign.client.evaluations import ENDED_EVALUATION_STATES
from omnialign.client.jobs import ENDED_ALIGNMENT_STATES, ENDED_TRAINING_STATES
from omnialign.v1 import alignment_service_pb2, annotation_service_pb2, evaluation_service_pb2, training_service_pb2

Act = Callable[[AsyncClient, str], Awaitable[Any]]

HTML = alignment_service_pb2.GetAlignmentReportRequest.FORMAT_HTML


@dataclass(frozen=True)
class JobKind:
    """What a kind of job is called, and how it is read and told what to do."""

    collection: str
    """As in names of the contract, and so in paths."""
    title: str
    pattern: str
    event_field: str
    """The field of its events that holds the job."""
    ended: frozenset[int]
    """States after which nothing happens."""
    listed: Callable[[AsyncClient], AsyncIterator[Any]]
    get: Callable[[AsyncClient, str], Awaitable[Any]]
    watch: Callable[..., AsyncIterator[Any]]
    actions: Mapping[str, Act]
    report: Callable[[AsyncClient, str], Awaitable[bytes]] | None = None
    subject: Callable[[Any], str] = field(default=lambda job: "")
    """What a job is about, in a few words for a list."""

    @property
    def variable(self) -> str:
        """The id's name in the pattern."""
        return self.pattern.rsplit("{", 1)[1].rstrip("}")

    def state(self, job: Any) -> str:
        """The state of a job in one word."""
        return str(job.State.Name(job.state)).removeprefix("STATE_").lower()

    def possible(self, job: Any) -> list[str]:
        """What a person can have done with a job in its state."""
        state = self.state(job)
        wanted = {"running": ("pause", "cancel"), "queued": ("cancel",), "paused": ("resume", "cancel")}
        after = ("delete",) if job.state in self.ended else ()
        return [action for action in wanted.get(state, after) if action in self.actions]


def _optimizes(job: alignment_service_pb2.AlignmentJob) -> str:
    return f"{job.spec.optimization.method or 'dpo'} of {names.short_name(job.spec.base_model)}"


def _trains(job: training_service_pb2.TrainingJob) -> str:
    return f"{job.spec.method} of {names.short_name(job.spec.base_model)}"


def _evaluates(job: evaluation_service_pb2.Evaluation) -> str:
    benchmarks = ", ".join(dict.fromkeys(benchmark.name for benchmark in job.spec.benchmarks))
    models = ", ".join(names.short_name(model) for model in job.spec.models)
    return f"{benchmarks} of {models}" if models else benchmarks


def _drafts(job: annotation_service_pb2.DraftJob) -> str:
    return f"{names.id_of(job.spec.campaign)} by {names.short_name(job.spec.model)}"


ALIGNMENT = JobKind(
    "alignmentJobs",
    "Alignment",
    names.ALIGNMENT_JOB,
    "alignment_job",
    frozenset(ENDED_ALIGNMENT_STATES),
    AsyncClient.list_alignment_jobs,
    AsyncClient.get_alignment_job,
    AsyncClient.watch_alignment_job,
    {
        "pause": AsyncClient.pause_alignment_job,
        "resume": AsyncClient.resume_alignment_job,
        "cancel": AsyncClient.cancel_alignment_job,
        "delete": AsyncClient.delete_alignment_job,
    },
    lambda client, name: client.get_alignment_report(name, HTML),
    _optimizes,
)
TRAINING = JobKind(
    "trainingJobs",
    "Training",
    names.TRAINING_JOB,
    "training_job",
    frozenset(ENDED_TRAINING_STATES),
    AsyncClient.list_training_jobs,
    AsyncClient.get_training_job,
    AsyncClient.watch_training_job,
    {"cancel": AsyncClient.cancel_training_job},
    None,
    _trains,
)
EVALUATION = JobKind(
    "evaluations",
    "Evaluation",
    names.EVALUATION,
    "evaluation",
    frozenset(ENDED_EVALUATION_STATES),
    AsyncClient.list_evaluations,
    AsyncClient.get_evaluation,
    AsyncClient.watch_evaluation,
    {
        "pause": AsyncClient.pause_evaluation,
        "resume": AsyncClient.resume_evaluation,
        "cancel": AsyncClient.cancel_evaluation,
        "delete": AsyncClient.delete_evaluation,
    },
    lambda client, name: client.get_evaluation_report(name, HTML),
    _evaluates,
)
DRAFTING = JobKind(
    "draftJobs",
    "Drafts of models",
    names.DRAFT_JOB,
    "draft_job",
    frozenset(ENDED_DRAFT_STATES),
    AsyncClient.list_draft_jobs,
    AsyncClient.get_draft_job,
    AsyncClient.watch_draft_job,
    {
        "pause": AsyncClient.pause_draft_job,
        "resume": AsyncClient.resume_draft_job,
        "cancel": AsyncClient.cancel_draft_job,
        "delete": AsyncClient.delete_draft_job,
    },
    None,
    _drafts,
)
KINDS: tuple[JobKind, ...] = (ALIGNMENT, TRAINING, EVALUATION, DRAFTING)
STATES = ("queued", "running", "paused", "succeeded", "failed", "cancelling", "cancelled")
QUESTIONS = {
    "cancel": "Cancel this job? What it has not finished is lost.",
    "delete": "Delete this job with its events and its report? What it made stays.",
}
"""Asked before what cannot be undone."""
