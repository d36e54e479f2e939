"""The datasets that a job writes, and their lineage. Every call may be repeated, and is while the service is away."""

from collections.abc import AsyncIterator, Callable, Sequence
from datetime import timedelta

from omnialign import names
from omnialign.errors import AlreadyExists, FailedPrecondition
from omnialign.v1 import data_service_pb2
from services.pipeline.kind import Job, JobContext, Record, table_of
from services.pipeline.planning import pages, request_id
from services.pipeline.quarantine import QUARANTINE
from services.pipeline.service_calls import ServiceClients, ServiceRetrier

APPEND_DEADLINE_SECONDS = 300.0
PAGE_RECORDS = 2048
"""The most records that are copied at once."""
SERVICE = "data"


class JobTables:
    """The tables of all jobs of a kind. `label` is the dataset label that names the job, such as `alignment_job`.

    They are kept for the time `ttl` from when each is made, and while anything uses them; for ever without one.
    """

    def __init__(self, retrier: ServiceRetrier, *, label: str, ttl: timedelta | None = None) -> None:
        self._retrier, self._label, self._ttl = retrier, label, ttl

    async def claim(self, job: Job, clients: ServiceClients) -> None:
        """Creates the quarantine table of a new job: every job has one, of whatever kind, so that a job whose tables
        would be another's is refused while its caller still waits.

        Raises AlreadyExists (`JOB_ID_TAKEN`).
        """
        try:
            await self._make(clients, job.name, QUARANTINE, uid=job.uid)
        except AlreadyExists as error:
            table, job_id = table_of(job.name, QUARANTINE), names.id_of(job.name)
            message = f"the id '{job_id}' is taken: '{table}' belongs to another job, maybe one that was deleted; "
            metadata = {"name": job.name, "dataset": table}
            raise AlreadyExists(message + "choose another id", reason="JOB_ID_TAKEN", metadata=metadata) from error

    async def create(self, context: JobContext, purpose: str) -> str:
        """Creates the job's table for a purpose, once; returns its name.

        Raises FailedPrecondition (`TABLE_TAKEN`) if another dataset has that name.
        """
        name = context.table(purpose)

        async def create() -> str:
            return await self._make(context.clients, context.name, purpose, uid=context.uid)

        try:
            return await self._retrier.call(create, uid=context.uid, service=SERVICE)
        except AlreadyExists as error:
            message = f"the dataset '{name}' exists and belongs to something else; choose another job id"
            raise FailedPrecondition(message, reason="TABLE_TAKEN", metadata={"dataset": name}) from error

    async def _make(self, clients: ServiceClients, job: str, purpose: str, *, uid: str) -> str:
        """Creates a table once, however often it is called for a uid."""
        labels, once = {self._label: job, "purpose": purpose}, request_id(uid, f"table/{purpose}")
        name = names.id_of(table_of(job, purpose))
        return str((await clients.data.create_dataset(name, labels=labels, ttl=self._ttl, request_id=once)).name)

    async def append(self, context: JobContext, name: str, records: Sequence[Record]) -> None:
        """Writes records to a table; those whose ids it has are replaced."""

        async def append() -> None:
            await context.clients.data.append_records(name, records, deadline_seconds=APPEND_DEADLINE_SECONDS)

        if records:
            await self._retrier.call(append, uid=context.uid, service=SERVICE)

    async def fill(self, context: JobContext, purpose: str, records: Callable[[], AsyncIterator[Record]]) -> int:
        """Writes a stream of records to the job's table for a purpose, page by page; returns their number.

        A stream that breaks is read again: the same records replace the same.
        """

        async def fill() -> int:
            count = 0
            async for _ in self.written(context, purpose, records()):
                count += 1
            return count

        return await self._retrier.call(fill, uid=context.uid, service=SERVICE)

    async def written(self, context: JobContext, purpose: str, records: AsyncIterator[Record]) -> AsyncIterator[Record]:
        """Writes a stream of records to the job's table for a purpose, page by page; yields each once it is stored.

        Raises what the stream and the data service raise: whoever reads it begins anew.
        """
        name = context.table(purpose)
        async for page in pages(records, size=PAGE_RECORDS):
            await context.clients.data.append_records(name, page, deadline_seconds=APPEND_DEADLINE_SECONDS)
            for record in page:
                yield record

    async def commit(self, context: JobContext, purpose: str) -> str:
        """Freezes a table; returns the name of the version."""

        async def commit() -> str:
            return str((await context.clients.data.commit_version(context.table(purpose))).name)

        return await self._retrier.call(commit, uid=context.uid, service=SERVICE)

    async def link(self, context: JobContext, *edges: tuple[str, str, str]) -> None:
        """Adds lineage: (source, target, relation). Edges with an empty source or target are left out."""
        messages = [data_service_pb2.LineageEdge(source=s, target=t, relation=r) for s, t, r in edges if s and t]

        async def link() -> None:
            await context.clients.data.add_lineage(messages)

        await self._retrier.call(link, uid=context.uid, service=SERVICE)
