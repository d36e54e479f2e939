"""The tables of alignment jobs that have ended, and what they are needed for."""

from __future__ import annotations

import datetime
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from omnialign.cli import dependents

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from omnialign.client import AsyncClient
    from omnialign.v1.alignment_service_pb2 import AlignmentJob
    from omnialign.v1.dataset_pb2 import Dataset

LABEL = "alignment_job"
"""The label of a dataset that names the job whose table it is."""


@dataclass(frozen=True)
class JobTable:
    """A table of a job."""

    name: str
    needed_by: list[str]
    """Who uses it, and what was made from it beside the tables of its job; empty for one that nothing needs."""


async def ended_jobs(client: AsyncClient, names: Sequence[str]) -> list[AlignmentJob]:
    """The jobs of these names. Raises NotFound, and FailedPrecondition (`JOB_STATE`) for one that has not ended."""
    from omnialign.client.jobs import ENDED_ALIGNMENT_STATES
    from omnialign.errors import FailedPrecondition

    jobs = [await client.get_alignment_job(name) for name in names]
    for job in jobs:
        if job.state not in ENDED_ALIGNMENT_STATES:
            message = f"{job.name} has not ended and needs its tables: cancel it first."
            raise FailedPrecondition(message, reason="JOB_STATE", metadata={"name": job.name})
    return jobs


async def jobs_ended_before(client: AsyncClient, days: float) -> list[AlignmentJob]:
    """The jobs that ended so many days ago, or longer."""
    from omnialign.client.jobs import ENDED_ALIGNMENT_STATES

    moment = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=days)
    return [
        job
        async for job in client.list_alignment_jobs()
        if job.state in ENDED_ALIGNMENT_STATES and job.end_time.ToDatetime(datetime.UTC) <= moment
    ]


async def tables_of(client: AsyncClient, jobs: Sequence[AlignmentJob]) -> AsyncIterator[JobTable]:
    """The tables of the jobs that are still there, and who needs them."""
    from omnialign import names

    tables: dict[str, list[Dataset]] = defaultdict(list)
    async for dataset in client.list_datasets():
        tables[dataset.labels.get(LABEL, "")].append(dataset)
    for job in jobs:
        own = {job.name, *(table.name for table in tables[job.name])}
        for table in tables[job.name]:
            found = [*table.users, *await dependents.dataset_products(client, table.name)]
            yield JobTable(table.name, [name for name in dict.fromkeys(found) if names.unversioned(name) not in own])
