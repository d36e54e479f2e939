"""Exports of dataset versions: written part by part, resumed where they were, complete with their manifest.

Memory is flat: a few MiB of media at a time, and on the local disk one part. An export that is killed goes on with the
part that it was at; one that the project's quota or the disk has no room for is removed.
"""

import hashlib
import shutil
import tempfile
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from omnialign.errors import FailedPrecondition, ResourceExhausted
from omnialign.exporting import RECORDS, form_of
from omnialign.names import DATASET_VERSION, parse, project_name_of, unversioned
from omnialign.v1 import data_service_pb2, dataset_pb2
from omnialign.v1.data_service_pb2 import ExportDatasetRequest as Request
from omnialign.v1.data_service_pb2 import ExportDatasetResponse as Response
from services.data.exporting.exports import FOLDER, Exports
from services.data.exporting.ledger import Manifest, Plan, Progress
from services.data.exporting.run import ExportRun, Stores
from services.data.objects.base import run_in_pool
from services.data.store import now_us, timestamp
from services.runtime.requests import body_digest, check_same_body

FILES_PER_MESSAGE = 200


class Exporter:
    """Runs exports."""

    def __init__(self, stores: Stores, *, exports: Exports) -> None:
        self._stores, self._exports, self._pool = stores, exports, stores.pool

    async def run(self, request: Request) -> AsyncIterator[Response]:
        """Exports a version; yields progress at once and about once a second, and finally the files.

        Raises FORMAT_UNKNOWN, DATASET_NOT_FOUND, DATASET_VERSION_NOT_FOUND, REQUEST_ID_REUSED, DATASET_REPLACED,
        EXPORT_TOO_LARGE, QUOTA_EXCEEDED, STORAGE_FULL, MEDIA_NOT_FOUND, MEDIA_CORRUPT.
        """
        form = form_of(request.format or RECORDS)
        parse(request.name, DATASET_VERSION)
        parent = project_name_of(request.name)
        export_id = _id_of(parent, request.request_id) if request.request_id else uuid.uuid4().hex
        name = f"{parent}/exports/{export_id}"
        manifest = await self._complete(export_id, name)
        plan, version = await self._plan(request, export_id, is_complete=manifest is not None)
        if manifest is None:
            try:
                async with self._folder() as folder:
                    begun = await run_in_pool(self._pool, self._stores.ledger.progress, export_id)
                    run = ExportRun(name, export_id, request, form, self._stores, folder=folder, begun=begun)
                    async for progress in run.write(plan.version):
                        yield _response(name, request, version, progress, run.rate)
                    manifest = await run.complete()
            except ResourceExhausted:
                await self._exports.remove(name, export_id)
                raise
        last = _response(name, request, version, manifest.progress, 0.0)
        last.expire_time.CopyFrom(timestamp(manifest.expire_us))
        files = await self._exports.files(manifest)
        for start in range(0, max(1, len(files)), FILES_PER_MESSAGE):
            del last.files[:]
            last.files.extend(files[start : start + FILES_PER_MESSAGE])
            yield last

    async def _complete(self, export_id: str, name: str) -> Manifest | None:
        """The export, if an earlier call has completed it. One that expired is removed, and begins again."""
        manifest = await run_in_pool(self._pool, self._stores.ledger.manifest, export_id)
        if manifest is not None and manifest.expire_us <= now_us():
            await self._exports.remove(name, export_id)
            return None
        return manifest

    async def _plan(
        self, request: Request, export_id: str, *, is_complete: bool
    ) -> tuple[Plan, dataset_pb2.DatasetVersion]:
        """What the export writes: as an earlier call has fixed it, or as this one does."""
        ledger, datasets = self._stores.ledger, self._stores.datasets
        plan = await run_in_pool(self._pool, ledger.plan, export_id)
        if plan is not None:
            check_same_body(plan.digest, request, request_id=request.request_id)
        version = await datasets.get_version(plan.version if plan else request.name)
        dataset = await datasets.get(unversioned(version.name))
        if plan is not None and plan.uid != dataset.uid:
            message = f"{dataset.name} is not the dataset that the export began with: take a new request_id."
            raise FailedPrecondition(message, reason="DATASET_REPLACED", metadata={"name": version.name})
        plan = plan or Plan(body_digest(request), version.name, dataset.uid)
        if not is_complete:
            await run_in_pool(self._pool, ledger.begin, export_id, plan)
        return plan, version

    @asynccontextmanager
    async def _folder(self) -> AsyncIterator[Path]:
        folder = Path(await run_in_pool(self._pool, tempfile.mkdtemp, prefix=FOLDER, dir=self._stores.config.root))
        try:
            yield folder
        finally:
            await run_in_pool(self._pool, shutil.rmtree, folder, ignore_errors=True)


def _response(
    name: str, request: Request, version: dataset_pb2.DatasetVersion, progress: Progress, rate: float
) -> Response:
    count = 0 if request.splits else version.record_count
    if request.subtasks and not request.splits:
        count = sum(version.subtask_counts.get(subtask, 0) for subtask in set(request.subtasks))
    return data_service_pb2.ExportDatasetResponse(
        export=name,
        dataset_version=version.name,
        record_count=count,
        records_read=progress.records,
        rows_written=progress.rows,
        bytes_written=progress.size_bytes,
        records_per_second=rate,
        left_out=progress.left_out,
        without=progress.without,
    )


def _id_of(parent: str, request_id: str) -> str:
    """The id of the export with a request id: hashed, as nobody else may guess or choose the names of exports."""
    return hashlib.sha256(f"export\0{parent}\0{request_id.lower()}".encode()).hexdigest()[:32]
