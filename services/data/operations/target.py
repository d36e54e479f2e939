"""The dataset that an operation makes: written in batches, and of use to nobody before its only version is there.

What an operation writes follows from its request alone. So a call that finds the dataset half written, because the one
that began it was killed, writes all of it again: what is there already stays as it is.
"""

from collections.abc import Sequence

from omnialign.errors import Aborted
from omnialign.names import project_name_of
from omnialign.v1.data_service_pb2 import LineageEdge
from omnialign.v1.dataset_pb2 import DatasetVersion
from omnialign.v1.record_pb2 import Record
from services.data.datasets import Datasets
from services.data.lineage import Lineage
from services.data.usage import Usage, named_media

WRITE_BYTES, WRITE_RECORDS = 16 * 1024 * 1024, 8192
"""The most that is held and written at once: larger writes make fewer files, and cost less in all."""


class Target:
    """Writes records to a new dataset, as far as its project has room for their media, and commits it at the end."""

    def __init__(self, name: str, *, datasets: Datasets, lineage: Lineage, usage: Usage) -> None:
        self.name, self.record_count = name, 0
        self._datasets, self._lineage, self._usage = datasets, lineage, usage
        self._held, self._held_bytes = list[Record](), 0

    async def add(self, records: Sequence[Record]) -> None:
        """Takes records over, with ids that were not taken before. Raises QUOTA_EXCEEDED."""
        for record in records:
            self._held.append(record)
            self._held_bytes += record.ByteSize()
        self.record_count += len(records)
        if self._held_bytes >= WRITE_BYTES or len(self._held) >= WRITE_RECORDS:
            await self._write()

    async def finish(self, sources: Sequence[str], relation: str) -> DatasetVersion:
        """Commits the dataset. Raises DATASET_CHANGED if somebody else wrote to it."""
        await self._write()
        found = (await self._datasets.get(self.name)).record_count
        if found != self.record_count:
            message = (
                f"{self.name} has {found} records, and {self.record_count} were written: others wrote to it. "
                "Delete it, and repeat the call."
            )
            raise Aborted(message, reason="DATASET_CHANGED", metadata={"name": self.name})
        # The lineage first: a call that is killed in between is repeated, but not one that finds a version.
        version = f"{self.name}/versions/1"
        edges = [LineageEdge(source=self.name, target=version, relation="committed_from")]
        for source in sources:
            edges += [LineageEdge(source=source, target=made, relation=relation) for made in (self.name, version)]
        await self._lineage.add(project_name_of(self.name), edges)
        return await self._datasets.commit(self.name)

    async def _write(self) -> None:
        records, self._held, self._held_bytes = self._held, [], 0
        if not records:
            return
        await self._usage.check(project_name_of(self.name), named_media(records))
        await self._datasets.append(self.name, records)
        await self._lineage.add_records(self.name, records)
