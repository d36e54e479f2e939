"""What the pipeline asks of the data service: tables, versions, lineage; each call may be repeated, and is."""

from collections.abc import Sequence

from omnialign.errors import AlreadyExists, FailedPrecondition
from omnialign.v1 import data_service_pb2, record_pb2
from services.alignment.job import Work
from services.alignment.patience import Patience
from services.alignment.seeds import request_id

APPEND_DEADLINE_SECONDS = 300.0
SERVICE = "data"


class Storage:
    """The data service, patiently."""

    def __init__(self, patience: Patience) -> None:
        self._patience = patience

    async def create(self, work: Work, purpose: str) -> str:
        """Creates the job's table for a purpose, once; returns its name.

        Raises FailedPrecondition (`TABLE_TAKEN`) when another dataset has the name.
        """
        name = work.table(purpose)
        dataset_id = name.rpartition("/")[2]
        labels = {"alignment_job": work.name, "purpose": purpose}
        once = request_id(work.uid, f"table/{purpose}")

        async def create() -> str:
            dataset = await work.peers.data.create_dataset(dataset_id, labels=labels, request_id=once)
            return str(dataset.name)

        try:
            return await self._patience.call(create, uid=work.uid, service=SERVICE)
        except AlreadyExists as error:
            message = f"the dataset '{name}' exists and is not of this job; choose another job id"
            raise FailedPrecondition(message, reason="TABLE_TAKEN", metadata={"dataset": name}) from error

    async def append(self, work: Work, name: str, records: Sequence[record_pb2.Record]) -> None:
        """Writes records; those whose ids are there are replaced."""

        async def append() -> None:
            await work.peers.data.append_records(name, records, deadline_seconds=APPEND_DEADLINE_SECONDS)

        if records:
            await self._patience.call(append, uid=work.uid, service=SERVICE)

    async def commit(self, work: Work, purpose: str) -> str:
        """Freezes a table; returns the version's name."""

        async def commit() -> str:
            return str((await work.peers.data.commit_version(work.table(purpose))).name)

        return await self._patience.call(commit, uid=work.uid, service=SERVICE)

    async def link(self, work: Work, *edges: tuple[str, str, str]) -> None:
        """Adds lineage: (source, target, relation), those with a name missing left out."""
        messages = [data_service_pb2.LineageEdge(source=s, target=t, relation=r) for s, t, r in edges if s and t]

        async def link() -> None:
            await work.peers.data.add_lineage(messages)

        await self._patience.call(link, uid=work.uid, service=SERVICE)
