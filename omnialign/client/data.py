"""Calls of the DataService."""

import hashlib
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import cast

from omnialign.client.base import Calls
from omnialign.client.chunks import Records, chunk_bytes, chunk_records
from omnialign.client.transport import Transport
from omnialign.errors import DataLoss
from omnialign.v1 import content_pb2, data_service_pb2, data_service_pb2_grpc, dataset_pb2, model_pb2, record_pb2


class DataCalls(Calls):
    """Datasets, media, models and lineage."""

    def __init__(self, transport: Transport, *, project: str) -> None:
        super().__init__(transport, project=project)
        self._data = data_service_pb2_grpc.DataServiceStub(transport.channel)

    async def create_dataset(
        self,
        dataset_id: str,
        *,
        display_name: str = "",
        labels: Mapping[str, str] | None = None,
        request_id: str = "",
    ) -> dataset_pb2.Dataset:
        """Creates an empty dataset. Raises AlreadyExists for an id that is taken."""
        request = data_service_pb2.CreateDatasetRequest(
            parent=self.parent,
            dataset_id=dataset_id,
            dataset=dataset_pb2.Dataset(display_name=display_name, labels=labels),
            request_id=request_id or str(uuid.uuid4()),
        )
        return await self._transport.unary(self._data.CreateDataset, request)

    async def get_dataset(self, name: str) -> dataset_pb2.Dataset:
        """Reads one dataset. Raises NotFound."""
        return await self._transport.unary(self._data.GetDataset, data_service_pb2.GetDatasetRequest(name=name))

    def list_datasets(self) -> AsyncIterator[dataset_pb2.Dataset]:
        """All datasets of the project, newest first."""
        request = data_service_pb2.ListDatasetsRequest(parent=self.parent)
        return self._pages(self._data.ListDatasets, request, items="datasets")

    async def delete_dataset(self, name: str) -> None:
        """Deletes a dataset with all its versions. Raises NotFound."""
        request = data_service_pb2.DeleteDatasetRequest(name=name)
        await self._transport.unary(self._data.DeleteDataset, request, idempotent=False)

    async def append_records(
        self, dataset: str, records: Records, *, deadline_seconds: float | None = None
    ) -> data_service_pb2.AppendRecordsResponse:
        """Writes records to the head of a dataset (a full resource name), all or none of them.

        An id that is there already is replaced. No deadline unless given: the time depends on the records.
        """

        async def messages() -> AsyncIterator[data_service_pb2.AppendRecordsRequest]:
            first = True
            async for chunk in chunk_records(records):
                yield data_service_pb2.AppendRecordsRequest(dataset=dataset if first else "", records=chunk)
                first = False
            if first:  # no records: the server still has to say what it thinks of the dataset
                yield data_service_pb2.AppendRecordsRequest(dataset=dataset)

        response: data_service_pb2.AppendRecordsResponse = await self._transport.upload(
            self._data.AppendRecords,
            messages,
            idempotent=isinstance(records, Sequence),  # an iterator cannot be read twice
            deadline_seconds=deadline_seconds,
        )
        return response

    async def commit_version(self, dataset: str) -> dataset_pb2.DatasetVersion:
        """Freezes the head as the next version; without changes, returns the last one."""
        request = data_service_pb2.CommitVersionRequest(dataset=dataset)
        return await self._transport.unary(self._data.CommitVersion, request)

    async def get_dataset_version(self, name: str) -> dataset_pb2.DatasetVersion:
        """Reads one version; `-` as the version is the newest. Raises NotFound."""
        request = data_service_pb2.GetDatasetVersionRequest(name=name)
        return await self._transport.unary(self._data.GetDatasetVersion, request)

    def list_dataset_versions(self, dataset: str) -> AsyncIterator[dataset_pb2.DatasetVersion]:
        """All versions of a dataset, newest first."""
        request = data_service_pb2.ListDatasetVersionsRequest(parent=dataset)
        return self._pages(self._data.ListDatasetVersions, request, items="dataset_versions")

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
        """The records of a dataset or of a version, by id; filters that are empty let everything through."""
        request = data_service_pb2.StreamRecordsRequest(
            source=source,
            subtasks=subtasks,
            splits=splits,
            ids=ids,
            shard_index=shard_index,
            shard_count=shard_count,
            limit=limit,
        )
        async for batch in self._transport.stream(self._data.StreamRecords, request):
            for record in batch.records:
                yield record

    async def stream_quarantine(self, dataset: str) -> AsyncIterator[record_pb2.Record]:
        """The rows of a dataset that were set aside, each with its `quarantine`."""
        request = data_service_pb2.StreamQuarantineRequest(dataset=dataset)
        async for batch in self._transport.stream(self._data.StreamQuarantine, request):
            for record in batch.records:
                yield record

    async def upload_media(
        self, data: bytes, *, modality: int, mime_type: str = "", deadline_seconds: float = 300.0
    ) -> content_pb2.Media:
        """Stores a media object and returns its reference. Raises InvalidArgument for bytes that do not decode."""
        header = data_service_pb2.UploadMediaHeader(
            parent=self.parent,
            modality=cast("content_pb2.Modality.ValueType", modality),
            mime_type=mime_type,
            sha256=hashlib.sha256(data).hexdigest(),
        )

        async def messages() -> AsyncIterator[data_service_pb2.UploadMediaRequest]:
            yield data_service_pb2.UploadMediaRequest(header=header)
            for chunk in chunk_bytes(data):
                yield data_service_pb2.UploadMediaRequest(chunk=chunk)

        response: data_service_pb2.UploadMediaResponse = await self._transport.upload(
            self._data.UploadMedia, messages, deadline_seconds=deadline_seconds
        )
        return response.media

    async def get_media(self, sha256: str, *, deadline_seconds: float = 300.0) -> bytes:
        """The bytes of an object. Raises NotFound, and DataLoss (`MEDIA_CORRUPT`) when they are not those bytes."""
        request = data_service_pb2.GetMediaRequest(parent=self.parent, sha256=sha256)
        stream = self._transport.stream(self._data.GetMedia, request, deadline_seconds=deadline_seconds)
        data = b"".join([message.chunk async for message in stream])
        if hashlib.sha256(data).hexdigest() != sha256:
            raise DataLoss(
                f"Media '{sha256}' arrived with another digest", reason="MEDIA_CORRUPT", metadata={"sha256": sha256}
            )
        return data

    def import_dataset(
        self, dataset_id: str, source_uri: str, *, subtask: str = "", split: str = ""
    ) -> AsyncIterator[data_service_pb2.ImportDatasetResponse]:
        """Imports files that the service can read; yields progress, the new version last."""
        request = data_service_pb2.ImportDatasetRequest(
            parent=self.parent, dataset_id=dataset_id, source_uri=source_uri, subtask=subtask, split=split
        )
        return self._transport.stream(self._data.ImportDataset, request, idempotent=False)

    async def register_model(
        self,
        model_id: str,
        uri: str,
        *,
        display_name: str = "",
        labels: Mapping[str, str] | None = None,
        sources: Sequence[str] = (),
        deadline_seconds: float = 300.0,
    ) -> model_pb2.ModelVersion:
        """Registers a model folder as the next version; the folder of the newest version is that version."""
        version = model_pb2.ModelVersion(uri=uri, display_name=display_name, labels=labels)
        request = data_service_pb2.RegisterModelRequest(
            parent=self.parent, model_id=model_id, model_version=version, sources=sources
        )
        return await self._transport.unary(self._data.RegisterModel, request, deadline_seconds=deadline_seconds)

    async def get_model_version(self, name: str) -> model_pb2.ModelVersion:
        """Reads one model version; `-` as the version is the newest. Raises NotFound."""
        request = data_service_pb2.GetModelVersionRequest(name=name)
        return await self._transport.unary(self._data.GetModelVersion, request)

    def list_model_versions(self) -> AsyncIterator[model_pb2.ModelVersion]:
        """All model versions of the project, newest first."""
        request = data_service_pb2.ListModelVersionsRequest(parent=self.parent)
        return self._pages(self._data.ListModelVersions, request, items="model_versions")

    async def add_lineage(self, edges: Sequence[data_service_pb2.LineageEdge]) -> None:
        """Records where artefacts came from; repeating an edge changes nothing."""
        for some in _batches(edges, 1000):
            request = data_service_pb2.AddLineageRequest(parent=self.parent, edges=some)
            await self._transport.unary(self._data.AddLineage, request)

    async def get_lineage(
        self, name: str, *, direction: int = 0, max_depth: int = 0
    ) -> data_service_pb2.GetLineageResponse:
        """Walks lineage from an artefact; `direction` is a `GetLineageRequest.Direction`, 0 both ways."""
        request = data_service_pb2.GetLineageRequest(
            name=name,
            direction=cast("data_service_pb2.GetLineageRequest.Direction.ValueType", direction),
            max_depth=max_depth,
        )
        return await self._transport.unary(self._data.GetLineage, request)


def _batches(
    edges: Sequence[data_service_pb2.LineageEdge], size: int
) -> Iterator[Sequence[data_service_pb2.LineageEdge]]:
    for start in range(0, len(edges), size):
        yield edges[start : start + size]
