"""What the parts of the pipeline share of one job: its names, its plan, its models, and the services for it."""

from dataclasses import dataclass

from omnialign.v1 import alignment_service_pb2, generation_pb2
from services.alignment import tables
from services.alignment.peers import Peers
from services.alignment.store import Job, Spec

STAGES = (
    "preflight",
    "feedback_modeling",
    "sample",
    "critique",
    "refine",
    "verify",
    "pair",
    "optimize",
    "evaluate",
    "report",
)
DEFAULT_CHUNK_SIZE = 64
DEFAULT_QUARANTINE_FRACTION = 0.2


@dataclass(frozen=True)
class Work:
    """One job at work. `plan` is the spec with names resolved and defaults filled in."""

    uid: str
    name: str
    plan: Spec
    models: alignment_service_pb2.JobModels
    peers: Peers

    def table(self, purpose: str) -> str:
        """Name of the dataset for one purpose."""
        return tables.table(self.name, purpose)

    @property
    def deterministic(self) -> bool:
        """Whether the same request must give the same tokens, so that chunks are always asked for whole."""
        return self.plan.sampling.deterministic


def with_defaults(spec: Spec) -> Spec:
    """The spec with its documented defaults filled in, except the prompt split, which depends on the dataset."""
    plan = Spec()
    plan.CopyFrom(spec)
    plan.feedback_split = spec.feedback_split or "train"
    plan.evaluation_split = spec.evaluation_split or "test"
    plan.feedback_fraction = spec.feedback_fraction or 1.0
    plan.max_quarantine_fraction = spec.max_quarantine_fraction or DEFAULT_QUARANTINE_FRACTION
    plan.chunk_size = spec.chunk_size or DEFAULT_CHUNK_SIZE
    if plan.pair_source == alignment_service_pb2.PAIR_SOURCE_UNSPECIFIED:
        plan.pair_source = alignment_service_pb2.PAIR_SOURCE_LANGUAGE_FEEDBACK
    if not spec.HasField("feedback_sampling"):
        plan.feedback_sampling.CopyFrom(generation_pb2.SamplingParams(temperature=0.0))
    plan.feedback_sampling.deterministic |= spec.sampling.deterministic
    return plan


def is_binary(plan: Spec) -> bool:
    """Whether the pairs are the annotated preferences, and the loop is left out."""
    return plan.pair_source == alignment_service_pb2.PAIR_SOURCE_BINARY


def project_of(name: str) -> str:
    """The project id in a resource name."""
    return name.split("/")[1]


def stage_of(job: Job, stage: str) -> alignment_service_pb2.StageStatus:
    """The status of a stage within a job."""
    return next(status for status in job.stages if status.stage == stage)


def job_id_of(name: str) -> str:
    """The id of a job, the last part of its name."""
    return name.rpartition("/")[2]
