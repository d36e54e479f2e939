"""What depends on a resource that somebody wants to delete: it is named, and the deletion takes `--force`."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from omnialign.cli.session import Session

if TYPE_CHECKING:
    from omnialign.client import AsyncClient
    from omnialign.v1.alignment_service_pb2 import AlignmentJob
    from omnialign.v1.evaluation_service_pb2 import Evaluation
    from omnialign.v1.training_service_pb2 import TrainingJob

SHOWN = 10


async def dataset_readers(client: "AsyncClient") -> dict[str, list[str]]:
    """The campaigns, and the jobs that have not ended, by the dataset that they read."""
    from omnialign import names

    read = [(job.name, _read_by(job)) async for job in client.list_alignment_jobs()]
    read += [(job.name, _trained_on(job)) async for job in client.list_training_jobs()]
    read += [(evaluation.name, _evaluated_on(evaluation)) async for evaluation in client.list_evaluations()]
    read += [(one.name, {one.dataset_version, one.start_from}) async for one in client.list_campaigns()]
    readers = defaultdict[str, list[str]](list)
    for reader, sources in read:
        for dataset in {names.unversioned(source) for source in sources}:
            readers[dataset].append(reader)
    return readers


async def dataset_dependents(client: "AsyncClient", name: str, readers: Mapping[str, Sequence[str]]) -> list[str]:
    """Those of the readers that read a dataset, and what lineage says was made from it."""
    found = readers.get(name, ())
    versions = [version.name async for version in client.list_dataset_versions(name)]
    return [*found, *await _products(client, [name, *versions], leave_out={*found, name, *versions})]


async def model_dependents(client: "AsyncClient", versions: Sequence[str]) -> list[str]:
    """The jobs that have not ended and use one of these model versions, and what lineage says was made from them."""
    wanted = set(versions)
    jobs = [job.name async for job in client.list_alignment_jobs() if wanted & _models_of(job)]
    jobs += [job.name async for job in client.list_training_jobs() if wanted & _trained_from(job)]
    jobs += [e.name async for e in client.list_evaluations() if wanted & _asked_by(e)]
    return [*jobs, *await _products(client, versions, leave_out={*jobs, *versions})]


async def job_products(client: "AsyncClient", name: str) -> list[str]:
    """What lineage says that a job made."""
    return await _products(client, [name], leave_out={name})


def refuse(name: str, dependents: Sequence[str], *, session: Session) -> None:
    """Raises FailedPrecondition (`HAS_DEPENDENTS`) if there are any; their names are in the message."""
    from omnialign.errors import FailedPrecondition

    if dependents:
        raise FailedPrecondition(
            f"{named(dependents, session=session)} depend on {name}: delete it all the same with --force.",
            reason="HAS_DEPENDENTS",
            metadata={"name": name, "dependents": ",".join(dependents)},
        )


def named(resources: Sequence[str], *, session: Session) -> str:
    """The names of resources in one line, without the project, and how many more there are."""
    shown = [name.removeprefix(f"projects/{session.project}/") for name in resources[:SHOWN]]
    more = f" and {len(resources) - SHOWN} more" if len(resources) > SHOWN else ""
    return ", ".join(shown) + more


async def _products(client: "AsyncClient", sources: Sequence[str], *, leave_out: set[str]) -> list[str]:
    """What was made from these in one step, each once."""
    from omnialign.v1.data_service_pb2 import GetLineageRequest

    found = []
    for source in sources:
        walk = await client.get_lineage(source, direction=GetLineageRequest.DIRECTION_PRODUCTS, max_depth=1)
        found += [edge.target for edge in walk.edges if edge.target not in leave_out]
    return list(dict.fromkeys(found))


def _models_of(job: "AlignmentJob") -> set[str]:
    """The models that a job still uses, or will."""
    from omnialign.client.jobs import ENDED_ALIGNMENT_STATES

    if job.state in ENDED_ALIGNMENT_STATES:
        return set()
    spec, models = job.spec, job.models
    given = {spec.base_model, spec.feedback_model, spec.judge_model}
    return given | {models.base, models.feedback, models.judge, models.aligned}


def _read_by(job: "AlignmentJob") -> set[str]:
    """The dataset that a job still reads, or will."""
    from omnialign.client.jobs import ENDED_ALIGNMENT_STATES

    return set() if job.state in ENDED_ALIGNMENT_STATES else {job.spec.dataset}


def _trained_on(job: "TrainingJob") -> set[str]:
    """The dataset that a job still trains on, or will."""
    from omnialign.client.jobs import ENDED_TRAINING_STATES

    return set() if job.state in ENDED_TRAINING_STATES else {job.spec.dataset}


def _trained_from(job: "TrainingJob") -> set[str]:
    """The model that a job still trains, or will."""
    from omnialign.client.jobs import ENDED_TRAINING_STATES

    return set() if job.state in ENDED_TRAINING_STATES else {job.spec.base_model}


def _evaluated_on(evaluation: "Evaluation") -> set[str]:
    """The datasets that an evaluation still reads, or will."""
    return set() if _has_ended(evaluation) else {one.benchmark.dataset for one in evaluation.manifest.benchmarks}


def _asked_by(evaluation: "Evaluation") -> set[str]:
    """The models that an evaluation still asks, or will."""
    if _has_ended(evaluation):
        return set()
    manifest = evaluation.manifest
    judges = [judge for identity in manifest.benchmarks for judge in identity.judges]
    generators = [one.model for one in manifest.generators]
    return {identity.model for identity in (*manifest.models, *judges, *generators)}


def _has_ended(evaluation: "Evaluation") -> bool:
    from omnialign.client.evaluations import ENDED_EVALUATION_STATES

    return evaluation.state in ENDED_EVALUATION_STATES
