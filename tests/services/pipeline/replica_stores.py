"""The stores of two replicas on one database, with one job."""

from collections.abc import AsyncIterator

import pytest

from services.alignment.job import ALIGNMENT, Job, Spec
from services.pipeline.chunk_store import ChunkStore
from services.pipeline.job_store import JobStore
from services.pipeline.notifier import Notifier
from services.pipeline.replicas import ReplicaStore
from services.runtime.database import Database

NAME = "projects/default/alignmentJobs/first"


class Replica:
    """The stores of one replica."""

    def __init__(self, database: Database) -> None:
        self.database, self.notifier = database, Notifier()
        self.jobs = JobStore(database, ALIGNMENT, self.notifier)
        self.chunks = ChunkStore(database, ALIGNMENT, self.notifier)
        self.replicas = ReplicaStore(database, ALIGNMENT.name)


@pytest.fixture
async def stores(database_url: str) -> AsyncIterator[tuple[Replica, Replica]]:
    """The stores of two replicas on one database, with one job."""
    stores = Replica(Database(database_url)), Replica(Database(database_url))
    await stores[0].database.write(_migrate)
    await insert(stores[0].jobs, "uid-1", NAME)
    yield stores
    for store in stores:
        await store.database.close()


def _migrate(connection):
    return ALIGNMENT.migrations.upgrade(connection)


async def insert(store: JobStore, uid: str, name: str, *, request_id: str = "") -> None:
    job = Job(uid=uid, name=name, state=Job.STATE_QUEUED)
    await store.insert(job, plan=Spec(chunk_size=3), request_id=request_id, digest="d")
