"""Calls of the DataService that make datasets of others, compare them, and remove what nothing names any more."""

import uuid
from collections.abc import AsyncIterator, Sequence

from omnialign.client.transport import ServiceCalls, Transport
from omnialign.v1 import data_service_pb2, data_service_pb2_grpc
from omnialign.v1.data_service_pb2 import RecordFilter
from omnialign.v1.dataset_operations_pb2 import Deduplication, Merge, Sample, Split


class OperationCalls(ServiceCalls):
    """Operations on whole datasets."""

    def __init__(self, transport: Transport, *, project: str) -> None:
        super().__init__(transport, project=project)
        self._operations = data_service_pb2_grpc.DataServiceStub(transport.channel)

    async def derive_dataset(
        self,
        dataset_id: str,
        sources: Sequence[str],
        *,
        filter: RecordFilter | None = None,  # noqa: A002 - the field's name
        split: Split | None = None,
        sample: Sample | None = None,
        merge: Merge | None = None,
        deduplication: Deduplication | None = None,
        request_id: str = "",
    ) -> AsyncIterator[data_service_pb2.DeriveDatasetResponse]:
        """Makes a new dataset of the records of versions, by one operation. Yields progress, and the version last.

        A dataset among the sources stands for its newest version. A call that breaks begins again, and yields progress
        once it is farther than before; one with the request id of an earlier call finishes that, or has its answer.
        """
        request = data_service_pb2.DeriveDatasetRequest(
            parent=self.parent,
            dataset_id=dataset_id,
            sources=sources,
            filter=filter,
            split=split,
            sample=sample,
            merge=merge,
            deduplication=deduplication,
            request_id=request_id or str(uuid.uuid4()),
        )
        records_read, last_removed = -1, ""
        stream = self._transport.stream(
            self._operations.DeriveDataset, request, on_restart=lambda: None, position=lambda: records_read
        )
        async for progress in stream:
            if progress.records_read > records_read or progress.HasField("dataset_version"):
                records_read = progress.records_read
                new = [pair for pair in progress.duplicates if pair.removed_id > last_removed]
                last_removed = max([last_removed, *(pair.removed_id for pair in new)])
                del progress.duplicates[:]
                progress.duplicates.extend(new)
                yield progress

    async def compare_datasets(
        self, source: str, other: str, *, limit: int = 0
    ) -> AsyncIterator[data_service_pb2.CompareDatasetsResponse]:
        """Yields the differences between two datasets or versions, with the counts so far; those of all come last.

        A stream that breaks goes on after the last difference that was yielded.
        """
        request = data_service_pb2.CompareDatasetsRequest(source=source, other=other, limit=limit)
        last = ""
        async for found in self._transport.stream(self._operations.CompareDatasets, request, on_restart=lambda: None):
            new = [one for one in found.differences if one.id > last]
            last = max([last, *(one.id for one in new)])
            del found.differences[:]
            found.differences.extend(new)
            yield found

    async def collect_garbage(self, *, dry_run: bool = False) -> AsyncIterator[data_service_pb2.CollectGarbageResponse]:
        """Removes media that nothing has named for the service's grace period; yields what was done so far.

        A dry run only counts what nothing names. The caller must be an administrator of the project.
        """
        request = data_service_pb2.CollectGarbageRequest(parent=self.parent, dry_run=dry_run)
        async for done in self._transport.stream(self._operations.CollectGarbage, request, on_restart=lambda: None):
            yield done

    async def get_dataset_statistics(
        self, name: str, *, with_page: bool = False
    ) -> AsyncIterator[data_service_pb2.GetDatasetStatisticsResponse]:
        """Yields progress, and last what a dataset or version holds in numbers; also as an HTML page if wanted.

        A call that breaks begins again.
        """
        request = data_service_pb2.GetDatasetStatisticsRequest(name=name, with_page=with_page)
        call = self._operations.GetDatasetStatistics
        async for progress in self._transport.stream(call, request, on_restart=lambda: None):
            yield progress
