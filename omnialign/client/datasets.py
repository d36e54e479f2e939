"""Calls of the DataService about datasets: versions, records, quarantine and imports."""

import datetime
import uuid
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from omnialign.client.transport import ServiceCalls, Transport
from omnialign.v1 import data_service_pb2, data_service_pb2_grpc, dataset_pb2, record_pb2

MAX_CHUNK_BYTES = 1024 * 1024 - 4096  # of records per message; the rest of the MiB is for the message around them
MAX_CHUNK_RECORDS = 256

Records = Iterable[record_pb2.Record] | AsyncIterable[record_pb2.Record]


class DatasetCalls(ServiceCalls):
    """Datasets and their records."""

    def __init__(self, transport: Transport, *, project: str) -> None:
        super().__init__(transport, project=project)
        self._datasets = data_service_pb2_grpc.DataServiceStub(transport.channel)

    async def create_dataset(
        self,
        dataset_id: str,
        *,
        display_name: str = "",
        labels: Mapping[str, str] | None = None,
        ttl: datetime.timedelta | None = None,
        request_id: str = "",
    ) -> dataset_pb2.Dataset:
        """Creates an empty dataset, kept for the time `ttl`, or for ever. Raises AlreadyExists if the id is taken."""
        request = data_service_pb2.CreateDatasetRequest(
            parent=self.parent,
            dataset_id=dataset_id,
            dataset=dataset_pb2.Dataset(display_name=display_name, labels=labels),
            request_id=request_id or str(uuid.uuid4()),
        )
        if ttl is not None:
            request.dataset.ttl.FromTimedelta(ttl)
        return await self._transport.unary(self._datasets.CreateDataset, request)

    async def get_dataset(self, name: str) -> dataset_pb2.Dataset:
        """Returns one dataset. Raises NotFound."""
        return await self._transport.unary(self._datasets.GetDataset, data_service_pb2.GetDatasetRequest(name=name))

    def list_datasets(self) -> AsyncIterator[dataset_pb2.Dataset]:
        """All datasets of the project, newest first."""
        request = data_service_pb2.ListDatasetsRequest(parent=self.parent)
        return self._pages(self._datasets.ListDatasets, request, items="datasets")

    async def update_dataset(self, dataset: dataset_pb2.Dataset, fields: Sequence[str]) -> dataset_pb2.Dataset:
        """Changes these fields of the dataset of this name: `display_name`, and `expire_time` or `ttl`.

        Either of the last two that is not set keeps it for ever. Raises NotFound, and InvalidArgument
        UPDATE_MASK_INVALID, EXPIRE_TIME_PAST.
        """
        request = data_service_pb2.UpdateDatasetRequest(dataset=dataset)
        request.update_mask.paths.extend(fields)
        return await self._transport.unary(self._datasets.UpdateDataset, request)

    async def delete_dataset(self, name: str, *, force: bool = False) -> None:
        """Deletes a dataset with all its versions. Raises NotFound, and FailedPrecondition DATASET_IN_USE.

        With `force`, it goes even if a job or a campaign uses it.
        """
        request = data_service_pb2.DeleteDatasetRequest(name=name, force=force)
        # A second attempt, after a first that succeeded unseen, would raise NotFound.
        await self._transport.unary(self._datasets.DeleteDataset, request, idempotent=False)

    async def append_records(
        self, dataset: str, records: Records, *, deadline_seconds: float | None = None
    ) -> data_service_pb2.AppendRecordsResponse:
        """Writes records to the head of `dataset`, a resource name: all of them or none.

        A record whose id exists already replaces the old one. No deadline unless given, because the time depends on
        the records.
        """

        async def messages() -> AsyncIterator[data_service_pb2.AppendRecordsRequest]:
            # At once, and without records: a service waits only seconds for the first message, and records may take
            # long to make. It also tells where there are none whether the dataset exists.
            yield data_service_pb2.AppendRecordsRequest(dataset=dataset)
            async for chunk in chunk_records(records):
                yield data_service_pb2.AppendRecordsRequest(records=chunk)

        response: data_service_pb2.AppendRecordsResponse = await self._transport.upload(
            self._datasets.AppendRecords,
            messages,
            idempotent=isinstance(records, Sequence),  # an iterator cannot be read twice
            deadline_seconds=deadline_seconds,
        )
        return response

    async def commit_version(self, dataset: str) -> dataset_pb2.DatasetVersion:
        """Freezes the head as the next version. Without changes since the last version, returns that one."""
        request = data_service_pb2.CommitVersionRequest(dataset=dataset)
        return await self._transport.unary(self._datasets.CommitVersion, request)

    async def get_dataset_version(self, name: str) -> dataset_pb2.DatasetVersion:
        """Returns one version; the version `-` is the newest. Raises NotFound."""
        request = data_service_pb2.GetDatasetVersionRequest(name=name)
        return await self._transport.unary(self._datasets.GetDatasetVersion, request)

    async def delete_dataset_version(self, name: str, *, force: bool = False) -> None:
        """Deletes one version, named by its number.

        Raises NotFound, and FailedPrecondition DATASET_IN_USE and HAS_DEPENDENTS. `force` deletes it even if a job or a
        campaign uses it, or something was made from it.
        """
        request = data_service_pb2.DeleteDatasetVersionRequest(name=name, force=force)
        # A second attempt, after a first that succeeded unseen, would raise NotFound.
        await self._transport.unary(self._datasets.DeleteDatasetVersion, request, idempotent=False)

    def list_dataset_versions(self, dataset: str) -> AsyncIterator[dataset_pb2.DatasetVersion]:
        """All versions of a dataset, newest first."""
        request = data_service_pb2.ListDatasetVersionsRequest(parent=dataset)
        return self._pages(self._datasets.ListDatasetVersions, request, items="dataset_versions")

    async def stream_records(
        self,
        source: str,
        *,
        subtasks: Sequence[str] = (),
        splits: Sequence[str] = (),
        ids: Sequence[str] = (),
        shard_index: int = 0,
        shard_count: int = 0,
        limit: int = 0,
    ) -> AsyncIterator[record_pb2.Record]:
        """Yields the records of a dataset or of a version, ordered by id. An empty filter matches everything.

        A stream that breaks goes on after the last record that was yielded.
        """
        request = data_service_pb2.StreamRecordsRequest(
            source=source,
            subtasks=subtasks,
            splits=splits,
            ids=ids,
            shard_index=shard_index,
            shard_count=shard_count,
            limit=limit,
        )

        def go_on_after(last: str) -> None:
            request.after_id = last

        num_records = 0
        async with aclosing(self._ordered(self._datasets.StreamRecords, request, go_on_after)) as records:
            async for record in records:
                yield record
                num_records += 1
                if num_records == limit:  # after a break, the service counts anew
                    return

    async def list_records(
        self,
        source: str,
        *,
        filter: data_service_pb2.RecordFilter | None = None,  # noqa: A002 - the field's name
        start_id: str = "",
        page_size: int = 0,
        page_token: str = "",
    ) -> data_service_pb2.ListRecordsResponse:
        """Returns one page of the records of a dataset or of a version, ordered by id, from `start_id` on.

        A page may be short while there are more: `next_page_token` is empty on the last one. To read all records,
        `stream_records` is faster.
        """
        request = data_service_pb2.ListRecordsRequest(
            parent=source, filter=filter, start_id=start_id, page_size=page_size, page_token=page_token
        )
        return await self._transport.unary(self._datasets.ListRecords, request)

    async def stream_quarantine(self, dataset: str) -> AsyncIterator[record_pb2.Record]:
        """Yields the quarantined rows of a dataset, ordered by id; the `quarantine` of each says why it was rejected.

        A stream that breaks goes on after the last row that was yielded.
        """
        request = data_service_pb2.StreamQuarantineRequest(dataset=dataset)
        async for record in self._ordered(self._datasets.StreamQuarantine, request):
            yield record

    async def import_dataset(
        self,
        dataset_id: str,
        source_uri: str,
        *,
        subtask: str = "",
        split: str = "",
        score_range: tuple[float, float] | None = None,
        winner_labels: tuple[int, int] | None = None,
        answer_labels: tuple[str, str] | None = None,
        ignored_columns: Sequence[str] = (),
        renamed_columns: Mapping[str, str] | None = None,
        format: str = "",  # noqa: A002 - the field's name
        reference_count: int | None = None,
        append: bool = False,
        ttl: datetime.timedelta | None = None,
    ) -> AsyncIterator[data_service_pb2.ImportDatasetResponse]:
        """Imports files that the service can read. Yields progress, and the new version last.

        A file replaces what earlier imports of it gave, unless `append`. Scores that are not 0-3 and labels that are
        not 1 and 2 are read as declared: the worst and the best score; the labels of the first and second response. So
        are labels of single answers other than true and false: those of a good and of a bad one.
        `format` is the one that neither names nor columns tell, `reference_count` what an item of AMU must have (0 for
        any number, 10 if None), and `renamed_columns` the names by which columns of the files are read. A dataset that
        the import creates is kept for the time `ttl`, or for ever.

        An import that breaks begins again, and yields progress once it is farther than before. Ids come from the rows,
        so that rows which were written already are written over, and the version is the same.
        """
        request = data_service_pb2.ImportDatasetRequest(
            parent=self.parent,
            dataset_id=dataset_id,
            source_uri=source_uri,
            subtask=subtask,
            split=split,
            ignored_columns=ignored_columns,
            renamed_columns=renamed_columns or {},
            format=format,
            reference_count=reference_count,
            append=append,
        )
        if score_range is not None:
            request.score_range.lowest, request.score_range.highest = score_range
        if winner_labels is not None:
            request.winner_labels.first, request.winner_labels.second = winner_labels
        if answer_labels is not None:
            request.answer_labels.good, request.answer_labels.bad = answer_labels
        if ttl is not None:
            request.ttl.FromTimedelta(ttl)
        rows_read, call = 0, self._datasets.ImportDataset
        stream = self._transport.stream(call, request, on_restart=lambda: None, position=lambda: rows_read)
        async for progress in stream:
            if progress.rows_read > rows_read or progress.HasField("dataset_version"):
                rows_read = progress.rows_read
                yield progress

    async def export_dataset(
        self,
        version: str,
        *,
        format: str = "",  # noqa: A002 - the field's name
        subtasks: Sequence[str] = (),
        splits: Sequence[str] = (),
        with_media: bool = True,
        request_id: str = "",
    ) -> AsyncIterator[data_service_pb2.ExportDatasetResponse]:
        """Writes a version in the form of another tool, as files in the service's store that are kept for a day.

        Yields progress, and last the files, in several messages if they are many: `download_export` downloads them, and
        where the store is S3, each has a link. An export that breaks goes on where it was, and so does a call with the
        `request_id` of an earlier one.
        """
        request = data_service_pb2.ExportDatasetRequest(
            name=version,
            format=format,
            subtasks=subtasks,
            splits=splits,
            without_media=not with_media,
            request_id=request_id or str(uuid.uuid4()),
        )
        skip, seen, records_read = 0, 0, 0

        def restarted() -> None:
            nonlocal skip, seen
            skip, seen = seen, 0

        stream = self._transport.stream(
            self._datasets.ExportDataset, request, on_restart=restarted, position=lambda: records_read
        )
        async for progress in stream:
            records_read = max(records_read, progress.records_read)
            if progress.HasField("expire_time"):  # a message with files, which come in the same order again
                seen += 1
                if seen <= skip:
                    continue
            yield progress

    async def _ordered(
        self, method: Callable[..., Any], request: Any, go_on_after: Callable[[str], None] = lambda last: None
    ) -> AsyncGenerator[record_pb2.Record, None]:
        """The records of a stream that is ordered by id, each once.

        One that breaks begins again, after `go_on_after` has been told the last id; what comes twice is skipped.
        """
        last = ""
        stream = self._transport.stream(method, request, on_restart=lambda: go_on_after(last), position=lambda: last)
        async with aclosing(stream) as batches:
            async for batch in batches:
                for record in batch.records:
                    if record.id > last:  # ids are ordered by their bytes, as Python orders text
                        last = record.id
                        yield record


async def chunk_records(records: Records) -> AsyncIterator[list[record_pb2.Record]]:
    """Groups records into lists that fit a message. A single record that is larger is a list of its own."""
    chunk: list[record_pb2.Record] = []
    size = 0
    async for record in _iterate(records):
        record_size = record.ByteSize() + 8  # with room for its tag and length in the message
        if chunk and (len(chunk) == MAX_CHUNK_RECORDS or size + record_size > MAX_CHUNK_BYTES):
            yield chunk
            chunk, size = [], 0
        chunk.append(record)
        size += record_size
    if chunk:
        yield chunk


async def _iterate(records: Records) -> AsyncIterator[record_pb2.Record]:
    if isinstance(records, AsyncIterable):
        async for record in records:
            yield record
    else:
        for record in records:
            yield record
