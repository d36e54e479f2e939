"""DataService over gRPC: translates messages to calls of the domain and back. The server maps errors."""

from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from typing import Any, TypeAlias

import grpc
from google.protobuf import empty_pb2

from omnialign.errors import InvalidArgument, OmnialignError, ResourceExhausted, to_status
from omnialign.folders import FileEntry
from omnialign.names import project_name_of
from omnialign.v1 import data_service_pb2 as pb
from omnialign.v1 import data_service_pb2_grpc, dataset_pb2, model_pb2, record_pb2
from services.data.bulk_media import BulkMedia
from services.data.datasets import Datasets
from services.data.exporting.exporter import Exporter
from services.data.exporting.exports import Exports
from services.data.garbage.collector import Collector
from services.data.importing.importer import Importer
from services.data.lineage import Lineage
from services.data.media_store import Claim, MediaStore
from services.data.media_stream import Arriving, batches
from services.data.models import Models
from services.data.operations.comparing import differences
from services.data.operations.deriving import Deriving
from services.data.operations.statistics import statistics
from services.data.presigned_media import PresignedMedia
from services.data.record_filter import matcher
from services.data.selection import Selection
from services.data.stored_records import as_response
from services.data.uploads import Uploads
from services.data.uses import Uses, unless_used
from services.runtime.requests import body_digest, decode_token, encode_token, page_size

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class DataServicer(data_service_pb2_grpc.DataServiceServicer):
    """The DataService. The proto documents each call."""

    def __init__(
        self,
        *,
        datasets: Datasets,
        media: MediaStore,
        bulk: BulkMedia,
        presigned: PresignedMedia,
        uploads: Uploads,
        models: Models,
        uses: Uses,
        lineage: Lineage,
        importer: Importer,
        deriving: Deriving,
        exporter: Exporter,
        exports: Exports,
        collector: Collector,
        pool: ThreadPoolExecutor,
        max_append_bytes: int,
    ) -> None:
        self._datasets, self._media, self._models, self._uses = datasets, media, models, uses
        self._bulk, self._presigned, self._uploads = bulk, presigned, uploads
        self._lineage, self._importer, self._deriving = lineage, importer, deriving
        self._exporter, self._exports = exporter, exports
        self._collector = collector
        self._pool, self._max_append_bytes = pool, max_append_bytes

    async def CreateDataset(self, request: pb.CreateDatasetRequest, context: Context) -> dataset_pb2.Dataset:  # noqa: D102, N802
        key = f"CreateDataset:{request.parent}:{request.request_id}" if request.request_id else ""
        digest = body_digest(request)
        return await self._datasets.create(request.parent, request.dataset_id, request.dataset, key=key, digest=digest)

    async def GetDataset(self, request: pb.GetDatasetRequest, context: Context) -> dataset_pb2.Dataset:  # noqa: D102, N802
        return await self._datasets.get(request.name)

    async def ListDatasets(self, request: pb.ListDatasetsRequest, context: Context) -> pb.ListDatasetsResponse:  # noqa: D102, N802
        after = decode_token(request.page_token, filter=request.parent, kinds=(int, str))
        datasets, position = await self._datasets.list_datasets(
            request.parent, after=after, limit=page_size(request.page_size)
        )
        return pb.ListDatasetsResponse(datasets=datasets, next_page_token=_token(position, request.parent))

    async def UpdateDataset(self, request: pb.UpdateDatasetRequest, context: Context) -> dataset_pb2.Dataset:  # noqa: D102, N802
        return await self._datasets.update(request.dataset, request.update_mask.paths)

    async def DeleteDataset(self, request: pb.DeleteDatasetRequest, context: Context) -> empty_pb2.Empty:  # noqa: D102, N802
        await self._datasets.delete(request.name, before=unless_used(request.name, force=request.force))
        return empty_pb2.Empty()

    async def AppendRecords(  # noqa: D102, N802
        self, request_iterator: AsyncIterator[pb.AppendRecordsRequest], context: Context
    ) -> pb.AppendRecordsResponse:
        dataset, records = await self._collect(request_iterator)
        inserted, updated = await self._datasets.append(dataset, records.values())
        await self._lineage.add_records(dataset, records.values())
        return pb.AppendRecordsResponse(inserted_count=inserted, updated_count=updated)

    async def CommitVersion(self, request: pb.CommitVersionRequest, context: Context) -> dataset_pb2.DatasetVersion:  # noqa: D102, N802
        version = await self._datasets.commit(request.dataset)
        edge = pb.LineageEdge(source=request.dataset, target=version.name, relation="committed_from")
        await self._lineage.add(project_name_of(request.dataset), [edge])
        return version

    async def GetDatasetVersion(  # noqa: D102, N802
        self, request: pb.GetDatasetVersionRequest, context: Context
    ) -> dataset_pb2.DatasetVersion:
        return await self._datasets.get_version(request.name)

    async def DeleteDatasetVersion(self, request: pb.DeleteDatasetVersionRequest, context: Context) -> empty_pb2.Empty:  # noqa: D102, N802
        if not request.force:
            await self._uses.require_none(request.name)
            await self._lineage.require_unused(request.name)
        await self._datasets.delete_version(request.name, force=request.force)
        return empty_pb2.Empty()

    async def ListDatasetVersions(  # noqa: D102, N802
        self, request: pb.ListDatasetVersionsRequest, context: Context
    ) -> pb.ListDatasetVersionsResponse:
        after = decode_token(request.page_token, filter=request.parent, kinds=(int,))
        limit = page_size(request.page_size)
        versions, position = await self._datasets.list_versions(request.parent, after=after, limit=limit)
        token = _token(position, request.parent)
        return pb.ListDatasetVersionsResponse(dataset_versions=versions, next_page_token=token)

    async def StreamRecords(  # noqa: D102, N802
        self, request: pb.StreamRecordsRequest, context: Context
    ) -> AsyncIterator[Any]:
        selection = Selection(
            subtasks=tuple(request.subtasks),
            splits=tuple(request.splits),
            ids=tuple(request.ids),
            shard_index=request.shard_index,
            shard_count=request.shard_count,
            limit=request.limit,
            after=request.after_id,
        )
        batches = self._datasets.stored(request.source, selection)
        if request.HasField("media"):
            async for response in self._bulk.with_records(batches, request.media):
                yield response
            return
        async for batch in batches:
            yield as_response(batch.messages)

    async def ListRecords(self, request: pb.ListRecordsRequest, context: Context) -> pb.ListRecordsResponse:  # noqa: D102, N802
        wanted = request.filter
        query = f"{request.parent} {wanted.SerializeToString(deterministic=True).hex()}"
        # As bytes: an id may have characters that a token has not.
        position = decode_token(request.page_token, filter=query, kinds=(bytes,))
        if position and request.start_id:
            problem = "begins a list and is left out with a page_token, which goes on with one"
            raise InvalidArgument(f"start_id {problem}", reason="START_ID_UNWANTED", violations=[("start_id", problem)])
        selection = Selection(
            subtasks=tuple(wanted.subtasks),
            splits=tuple(wanted.splits),
            start=request.start_id,
            after=bytes.fromhex(position[0]).decode() if position else "",
        )
        limit = page_size(request.page_size)
        records, last = await self._datasets.page(request.parent, selection, matcher(wanted), limit=limit)
        return pb.ListRecordsResponse(
            records=records, next_page_token=_token([last.encode().hex()] if last else [], query)
        )

    async def StreamQuarantine(  # noqa: D102, N802
        self, request: pb.StreamQuarantineRequest, context: Context
    ) -> AsyncIterator[pb.StreamQuarantineResponse]:
        async for batch in self._datasets.stream_quarantine(request.dataset):
            yield pb.StreamQuarantineResponse(records=batch)

    async def UploadMedia(  # noqa: D102, N802
        self, request_iterator: AsyncIterator[pb.UploadMediaRequest], context: Context
    ) -> pb.UploadMediaResponse:
        header = await _header(request_iterator)
        claim = Claim(modality=header.modality, mime_type=header.mime_type, sha256=header.sha256)
        media, existed = await self._media.upload(_contents(request_iterator), claim=claim, parent=header.parent)
        return pb.UploadMediaResponse(media=media, existed=existed)

    async def UploadManyMedia(  # noqa: D102, N802
        self, request_iterator: AsyncIterator[pb.UploadManyMediaRequest], context: Context
    ) -> AsyncIterator[pb.UploadManyMediaResponse]:
        header = await _header(request_iterator)
        async with aclosing(batches(_contents(request_iterator))) as arriving:
            async for batch in arriving:
                yield await _kept(batch, self._media, parent=header.parent)

    async def GetMedia(self, request: pb.GetMediaRequest, context: Context) -> AsyncIterator[pb.GetMediaResponse]:  # noqa: D102, N802
        is_part = request.read_offset or request.read_limit
        whole, part = self._media.read, self._media.read_part
        wanted = part(request.sha256, request.read_offset, request.read_limit) if is_part else whole(request.sha256)
        async for reference, chunk in wanted:
            yield pb.GetMediaResponse(media=reference, chunk=chunk)

    async def ReadMedia(  # noqa: D102, N802
        self, request: pb.ReadMediaRequest, context: Context
    ) -> AsyncIterator[Any]:
        async for response in self._bulk.read(request.sha256s, request.delivery):
            yield response

    async def CreateMediaUpload(  # noqa: D102, N802
        self, request: pb.CreateMediaUploadRequest, context: Context
    ) -> pb.CreateMediaUploadResponse:
        return await self._presigned.create_upload(request.parent, sha256=request.sha256, size_bytes=request.size_bytes)

    async def CompleteMediaUpload(  # noqa: D102, N802
        self, request: pb.CompleteMediaUploadRequest, context: Context
    ) -> pb.CompleteMediaUploadResponse:
        found = await self._presigned.complete_upload(
            request.name, modality=request.modality, mime_type=request.mime_type
        )
        return pb.CompleteMediaUploadResponse(media=found)

    async def CreateMediaDownload(  # noqa: D102, N802
        self, request: pb.CreateMediaDownloadRequest, context: Context
    ) -> pb.CreateMediaDownloadResponse:
        return await self._presigned.create_download(request.sha256)

    async def UploadFiles(  # noqa: D102, N802
        self, request_iterator: AsyncIterator[pb.UploadFilesRequest], context: Context
    ) -> pb.UploadFilesResponse:
        header = await _header(request_iterator)
        return await self._uploads.receive(header.parent, _contents(request_iterator), request_id=header.request_id)

    async def GetUploadProgress(  # noqa: D102, N802
        self, request: pb.GetUploadProgressRequest, context: Context
    ) -> pb.GetUploadProgressResponse:
        count = await self._uploads.received_count(request.parent, request.request_id)
        return pb.GetUploadProgressResponse(file_count=count)

    async def ImportDataset(  # noqa: D102, N802
        self, request: pb.ImportDatasetRequest, context: Context
    ) -> AsyncIterator[pb.ImportDatasetResponse]:
        async for progress in self._importer.run(request):
            yield progress

    async def DeriveDataset(  # noqa: D102, N802
        self, request: pb.DeriveDatasetRequest, context: Context
    ) -> AsyncIterator[pb.DeriveDatasetResponse]:
        async for progress in self._deriving.run(request, digest=body_digest(request)):
            yield progress

    async def CompareDatasets(  # noqa: D102, N802
        self, request: pb.CompareDatasetsRequest, context: Context
    ) -> AsyncIterator[pb.CompareDatasetsResponse]:
        async for found in differences(self._datasets, request):
            yield found

    async def ExportDataset(  # noqa: D102, N802
        self, request: pb.ExportDatasetRequest, context: Context
    ) -> AsyncIterator[pb.ExportDatasetResponse]:
        async for progress in self._exporter.run(request):
            yield progress

    async def DownloadExport(  # noqa: D102, N802
        self, request: pb.DownloadExportRequest, context: Context
    ) -> AsyncIterator[pb.DownloadExportResponse]:
        async for chunk in self._exports.read(request.name, request.path, request.read_offset):
            yield pb.DownloadExportResponse(chunk=chunk)

    async def GetDatasetStatistics(  # noqa: D102, N802
        self, request: pb.GetDatasetStatisticsRequest, context: Context
    ) -> AsyncIterator[pb.GetDatasetStatisticsResponse]:
        async for progress in statistics(self._datasets, request, pool=self._pool):
            yield progress

    async def RegisterModel(self, request: pb.RegisterModelRequest, context: Context) -> model_pb2.ModelVersion:  # noqa: D102, N802
        return await self._models.register(
            request.parent, request.model_id, wanted=request.model_version, sources=request.sources
        )

    async def GetModelVersion(self, request: pb.GetModelVersionRequest, context: Context) -> model_pb2.ModelVersion:  # noqa: D102, N802
        return await self._models.get(request.name)

    async def DeleteModelVersion(self, request: pb.DeleteModelVersionRequest, context: Context) -> empty_pb2.Empty:  # noqa: D102, N802
        await self._models.delete(request.name, force=request.force)
        return empty_pb2.Empty()

    async def DownloadModel(  # noqa: D102, N802
        self, request: pb.DownloadModelRequest, context: Context
    ) -> AsyncIterator[pb.DownloadModelResponse]:
        wanted = self._models.download(request.name, skip=request.skip_paths, weights=not request.without_weights)
        async for part in wanted:
            if isinstance(part, bytes):
                yield pb.DownloadModelResponse(chunk=part)
            elif isinstance(part, FileEntry):
                file = pb.DownloadedFile(path=part.path, size_bytes=part.size_bytes, sha256=part.sha256)
                yield pb.DownloadModelResponse(file=file)
            else:
                yield pb.DownloadModelResponse(model_version=part)

    async def ListModelVersions(  # noqa: D102, N802
        self, request: pb.ListModelVersionsRequest, context: Context
    ) -> pb.ListModelVersionsResponse:
        after = decode_token(request.page_token, filter=request.parent, kinds=(int, str, int))
        limit = page_size(request.page_size)
        versions, position = await self._models.list_versions(request.parent, after=after, limit=limit)
        token = _token(position, request.parent)
        return pb.ListModelVersionsResponse(model_versions=versions, next_page_token=token)

    async def AddLineage(self, request: pb.AddLineageRequest, context: Context) -> pb.AddLineageResponse:  # noqa: D102, N802
        await self._lineage.add(request.parent, request.edges)
        return pb.AddLineageResponse()

    async def GetLineage(self, request: pb.GetLineageRequest, context: Context) -> pb.GetLineageResponse:  # noqa: D102, N802
        return await self._lineage.walk(request)

    async def BeginUse(self, request: pb.BeginUseRequest, context: Context) -> pb.BeginUseResponse:  # noqa: D102, N802
        seconds = request.ttl.ToMicroseconds() / 1e6
        await self._uses.begin(request.user, request.names, seconds=seconds, allow_missing=request.allow_missing)
        return pb.BeginUseResponse()

    async def EndUse(self, request: pb.EndUseRequest, context: Context) -> pb.EndUseResponse:  # noqa: D102, N802
        await self._uses.end(request.user)
        return pb.EndUseResponse()

    async def CollectGarbage(  # noqa: D102, N802
        self, request: pb.CollectGarbageRequest, context: Context
    ) -> AsyncIterator[pb.CollectGarbageResponse]:
        async for done in self._collector.collect(dry_run=request.dry_run):
            yield pb.CollectGarbageResponse(
                examined_count=done.examined,
                condemned_count=done.condemned,
                removed_count=done.media,
                freed_bytes=done.size_bytes,
                packs_rewritten=done.packs,
                datasets_counted=done.datasets,
            )

    async def _collect(
        self, messages: AsyncIterator[pb.AppendRecordsRequest]
    ) -> tuple[str, dict[str, record_pb2.Record]]:
        """All records of a call by id. They become visible together, so they are all in memory, up to a limit."""
        dataset, records, size_bytes = "", dict[str, record_pb2.Record](), 0
        async for message in messages:
            dataset = dataset or message.dataset
            size_bytes += message.ByteSize()
            if size_bytes > self._max_append_bytes:
                text = f"One call appends at most {self._max_append_bytes} bytes: split the records over several calls."
                raise ResourceExhausted(text, reason="APPEND_TOO_LARGE")
            records.update((record.id, _scored(record)) for record in message.records)
        if not dataset:
            raise InvalidArgument("The first message must name the dataset.", reason="DATASET_MISSING")
        return dataset, records


def _scored(record: record_pb2.Record) -> record_pb2.Record:
    """The record. Raises InvalidArgument RECORD_UNSCORED for a rationale alone, which only drafts may have."""
    for response in record.responses:
        scores = response.feedback.scores if response.HasField("feedback") else ()
        if unscored := [score.dimension for score in scores if score.unscored]:
            message = f"Record {record.id!r} has a rationale without a score on {unscored[0]!r}: leave it out."
            raise InvalidArgument(message, reason="RECORD_UNSCORED", metadata={"record": record.id})
    return record


async def _header(messages: AsyncIterator[Any]) -> Any:
    """The header of an upload, which is its first message. Raises InvalidArgument UPLOAD_HEADER_MISSING."""
    first = await anext(aiter(messages), None)
    if first is None or first.WhichOneof("message") != "header":
        raise InvalidArgument("The first message of an upload must be its header.", reason="UPLOAD_HEADER_MISSING")
    return first.header


async def _contents(messages: AsyncIterator[Any]) -> AsyncIterator[Any]:
    """What the messages of an upload after its header hold. Raises InvalidArgument UPLOAD_HEADER_REPEATED."""
    async for message in messages:
        if (kind := message.WhichOneof("message") or "header") == "header":
            text = "Only the first message of an upload may be a header."
            raise InvalidArgument(text, reason="UPLOAD_HEADER_REPEATED")
        yield getattr(message, kind)


async def _kept(batch: Sequence[Arriving], store: MediaStore, *, parent: str) -> pb.UploadManyMediaResponse:
    sent = [one for one in batch if isinstance(one, pb.SentMedium)]
    offered = [one for one in batch if isinstance(one, pb.OfferedMedium)]
    found = await store.upload_many([(one.data, _claim(one)) for one in sent], parent=parent) if sent else []
    found += await store.find_many([_claim(one) for one in offered], parent=parent) if offered else []
    response = pb.UploadManyMediaResponse()
    answered: list[Arriving] = [*sent, *offered]
    for one, medium in zip(answered, found, strict=True):
        if isinstance(medium, OmnialignError):
            response.media.add(key=one.key, error=to_status(medium))
        else:
            response.media.add(key=one.key, media=medium)
    return response


def _claim(medium: Arriving) -> Claim:
    mime_type = medium.mime_type if isinstance(medium, pb.SentMedium) else ""
    return Claim(modality=medium.modality, mime_type=mime_type, sha256=medium.sha256)


def _token(position: list[str], filter: str) -> str:  # noqa: A002
    return encode_token(position, filter=filter) if position else ""
