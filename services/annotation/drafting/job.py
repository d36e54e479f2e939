"""What a draft job is: its stage, the table that it writes, and the defaults of its spec."""

from omnialign import names
from omnialign.v1 import alignment_service_pb2, annotation_service_pb2
from services.annotation.tables import MIGRATIONS
from services.pipeline.kind import JobKind

Job = annotation_service_pb2.DraftJob
Spec = annotation_service_pb2.DraftSpec
StageStatus = alignment_service_pb2.StageStatus

DRAFT = "draft"
DRAFTS = "drafts"
"""Purpose of the table of the pairs with what the model says of them."""

DEFAULT_CHUNK_SIZE = 4
DEFAULT_QUARANTINE_FRACTION = 0.2
DEFAULT_NEW_TOKENS = 2048
"""A form on nine dimensions of two videos takes most of that."""

DRAFTING = JobKind(
    name="drafting",
    noun="draft job",
    pattern=names.DRAFT_JOB,
    job=Job,
    plan=Spec,
    stage=StageStatus,
    event=annotation_service_pb2.WatchDraftJobResponse,
    event_field="draft_job",
    quota="draft_jobs",
    migrations=MIGRATIONS,
    quarantine_limit=lambda plan: float(plan.max_quarantine_fraction),
    is_deterministic=lambda plan: bool(plan.sampling.deterministic),
)


def with_defaults(spec: Spec) -> Spec:
    """The spec with its documented defaults filled in, the budget apart."""
    plan = Spec()
    plan.CopyFrom(spec)
    plan.chunk_size = spec.chunk_size or DEFAULT_CHUNK_SIZE
    plan.max_quarantine_fraction = spec.max_quarantine_fraction or DEFAULT_QUARANTINE_FRACTION
    plan.sampling.max_new_tokens = spec.sampling.max_new_tokens or DEFAULT_NEW_TOKENS
    return plan
