"""What an evaluation is: its stages, the tables that it writes, its benchmarks, and the defaults of its spec."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from omnialign import names
from omnialign.v1 import alignment_service_pb2, evaluation_service_pb2, generation_pb2
from services.inference.model_uri import is_endpoint_model
from services.pipeline.kind import JobKind
from services.runtime.migrations import Migrations

Job = evaluation_service_pb2.Evaluation
Spec = evaluation_service_pb2.EvaluationSpec
BenchmarkSpec = evaluation_service_pb2.Benchmark
StageStatus = alignment_service_pb2.StageStatus

PREFLIGHT, ANSWER, SCORE, REPORT = "preflight", "answer", "score", "report"
STAGES = (PREFLIGHT, ANSWER, SCORE, REPORT)

# Tables by purpose: an item for each model that answers it, those with the answers, what is to be scored, the scores.
WORKS, ANSWERS, TASKS, SCORES = "works", "answers", "tasks", "scores"

DEFAULT_CHUNK_SIZE = 128
DEFAULT_QUARANTINE_FRACTION = 0.2
DEFAULT_SPLIT = "test"

MIGRATIONS = Migrations("evaluation", Path(__file__).parent / "migrations", witness="evaluation_jobs")

EVALUATION = JobKind(
    name="evaluation",
    noun="evaluation",
    pattern=names.EVALUATION,
    job=Job,
    plan=Spec,
    stage=StageStatus,
    event=evaluation_service_pb2.WatchEvaluationResponse,
    event_field="evaluation",
    quota="evaluations",
    migrations=MIGRATIONS,
    quarantine_limit=lambda plan: float(plan.max_quarantine_fraction),
    is_deterministic=lambda plan: bool(plan.sampling.deterministic),
)


@dataclass(frozen=True)
class Part:
    """One benchmark of an evaluation."""

    id: str
    """Its name; the second of one name is `checkers-2`."""
    spec: BenchmarkSpec


def parts_of(plan: Spec) -> list[Part]:
    """The benchmarks of an evaluation, in order."""
    seen, parts = Counter[str](), []
    for spec in plan.benchmarks:
        seen[spec.name] += 1
        number = seen[spec.name]
        parts.append(Part(spec.name if number == 1 else f"{spec.name}-{number}", spec))
    return parts


def model_identity(job: Job, model: str) -> str:
    """What tells a model of an evaluation from any other of its name; empty for a folder, whose files may change.

    An endpoint is taken at its word: whatever answers at its URL under its name is the same model.
    """
    if is_endpoint_model(model):
        return "endpoint"
    manifest = job.manifest
    judges = (judge for benchmark in manifest.benchmarks for judge in benchmark.judges)
    known = [*manifest.models, *judges, *(one.model for one in manifest.generators)]
    return next((identity.sha256 for identity in known if identity.model == model), "")


def pairs_beside(spec: BenchmarkSpec) -> BenchmarkSpec:
    """The benchmark of the annotated pairs that tell how far the judges of a benchmark agree with people."""
    return BenchmarkSpec(
        name="preference", dataset=spec.annotated_pairs, split=spec.annotated_split, judges=spec.judges
    )


def with_defaults(spec: Spec) -> Spec:
    """The spec with its documented defaults filled in."""
    plan = Spec()
    plan.CopyFrom(spec)
    plan.chunk_size = spec.chunk_size or DEFAULT_CHUNK_SIZE
    plan.max_quarantine_fraction = spec.max_quarantine_fraction or DEFAULT_QUARANTINE_FRACTION
    plan.sampling.CopyFrom(spec.sampling if spec.HasField("sampling") else generation_pb2.SamplingParams())
    for benchmark in plan.benchmarks:
        benchmark.split = benchmark.split or DEFAULT_SPLIT
        if benchmark.annotated_pairs:
            benchmark.annotated_split = benchmark.annotated_split or DEFAULT_SPLIT
        for judge in benchmark.judges:
            judge.sampling.deterministic |= plan.sampling.deterministic
    for generator in plan.generators:
        generator.sampling.deterministic |= plan.sampling.deterministic
    return plan
