"""Importing files in the schemas of align-anything-200k as a new version of a dataset.

Batches of rows are read ahead, converted to records in a bounded number of threads, and written by id in order. The id
is derived from the row's content, so repeating an import changes nothing. Rows that cannot be converted go to the
dataset's quarantine and are counted by reason; they never stop the import.
"""

import asyncio
import shutil
import tempfile
from collections import Counter, deque
from collections.abc import AsyncIterator, Iterator, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

from omnialign.errors import AlreadyExists, FailedPrecondition, NotFound
from omnialign.v1 import data_service_pb2, dataset_pb2, record_pb2
from omnialign.v1.data_service_pb2 import ImportDatasetRequest as Request
from omnialign.v1.data_service_pb2 import ImportDatasetResponse as Progress
from services.data.config import DataConfig
from services.data.datasets import Datasets
from services.data.importing.readers import Batch, read_batches
from services.data.importing.rows import ReadRow, RowReader
from services.data.importing.sources import MediaFiles, SourceFile, find_files
from services.data.media_store import MediaStore
from services.data.objects.base import run_in_pool
from services.data.store import Store
from services.data.uploads import Upload, Uploads, is_upload, local_path

WRITE_RECORDS = 512


class Importer:
    """Runs imports."""

    def __init__(
        self,
        config: DataConfig,
        *,
        datasets: Datasets,
        store: Store,
        media: MediaStore,
        uploads: Uploads,
        pool: ThreadPoolExecutor,
    ) -> None:
        self._config, self._datasets, self._store, self._media, self._pool = config, datasets, store, media, pool
        self._uploads = uploads

    async def run(self, request: Request) -> AsyncIterator[Progress]:
        """Imports a source; yields progress after each write, and finally the version.

        Raises the reasons of `sources.find_files` and `uploads.local_path`, SOURCE_MALFORMED, and NO_VALID_ROWS (the
        quarantine says why).
        """
        async with self._source(request) as (path, uri):
            async for progress in self._import(request, path, uri):
                yield progress

    async def _import(self, request: Request, path: Path, uri: str) -> AsyncIterator[Progress]:
        files = await run_in_pool(self._pool, find_files, path, subtask=request.subtask, split=request.split)
        run = _ImportRun(f"{request.parent}/datasets/{request.dataset_id}", datasets=self._datasets, media=self._media)
        await self._ensure(request)
        for file in files:
            async for row in self._rows(file):
                if await run.add(row):
                    yield run.progress
        await run.flush()
        if not run.progress.records_imported:
            message = f"None of {run.progress.rows_read} rows can be imported: see the quarantine of {run.name}."
            reasons = {reason: str(count) for reason, count in run.progress.quarantine_reasons.items()}
            raise FailedPrecondition(message, reason="NO_VALID_ROWS", metadata=reasons)
        version = await self._datasets.commit(run.name)
        await self._add_lineage(request.parent, run.name, uri, version)
        run.progress.dataset_version.CopyFrom(version)
        yield run.progress

    @asynccontextmanager
    async def _source(self, request: Request) -> AsyncIterator[tuple[Path, str]]:
        """The files as a local path, and their name in the lineage. An upload is downloaded and removed afterwards."""
        if not is_upload(request.source_uri):
            path = local_path(request.source_uri, roots=self._config.roots())
            yield path, path.as_uri()
            return
        upload = await self._uploads.get(request.source_uri, parent=request.parent)
        folder = Path(await run_in_pool(self._pool, tempfile.mkdtemp, prefix="import-", dir=self._config.root))
        try:
            await run_in_pool(self._pool, self._uploads.fetch, upload, folder)
            yield _upload_root(folder, upload), upload.name
        finally:
            await run_in_pool(self._pool, shutil.rmtree, folder, ignore_errors=True)

    async def _ensure(self, request: Request) -> None:
        """Creates the dataset if it is missing, even if another import does so at the same time."""
        name = f"{request.parent}/datasets/{request.dataset_id}"
        try:
            await self._datasets.get(name)
        except NotFound:
            wanted = dataset_pb2.Dataset(display_name=f"Imported from {request.source_uri}"[:200])
            try:
                await self._datasets.create(request.parent, request.dataset_id, wanted, key="", digest="")
            except AlreadyExists:
                return

    async def _rows(self, file: SourceFile) -> AsyncIterator[ReadRow]:
        """The rows of a file as records, in order, while threads convert the next ones."""
        reader = RowReader(file, files=MediaFiles(file, store=self._media))
        batches = read_batches(file)
        working: deque[asyncio.Task[list[ReadRow]]] = deque()
        try:
            while (batch := await run_in_pool(self._pool, next, batches, None)) is not None:
                working.append(asyncio.create_task(run_in_pool(self._pool, _read, reader, batch)))
                if len(working) > self._config.media_workers:
                    for row in await working.popleft():
                        yield row
            while working:
                for row in await working.popleft():
                    yield row
        finally:
            for task in working:
                task.cancel()

    async def _add_lineage(self, parent: str, name: str, uri: str, version: dataset_pb2.DatasetVersion) -> None:
        edge = data_service_pb2.LineageEdge
        edges = [
            edge(source=uri, target=name, relation="imported_from"),
            edge(source=uri, target=version.name, relation="imported_from"),
            edge(source=name, target=version.name, relation="committed_from"),
        ]
        await self._store.add_edges(parent, edges)


class _ImportRun:
    """The counts of an import and the records that wait to be written."""

    def __init__(self, name: str, *, datasets: Datasets, media: MediaStore) -> None:
        self.name, self.progress = name, Progress()
        self._datasets, self._media = datasets, media
        self._good: list[record_pb2.Record] = []
        self._bad: list[record_pb2.Record] = []
        # Identical rows get a number each. Only 64 bits of each digest are kept, not the rows.
        self._seen: Counter[int] = Counter()

    async def add(self, row: ReadRow) -> bool:
        """Counts a row and keeps it for the next write; whether a write took place."""
        key = int(row.digest[:16], 16)
        again = self._seen[key]
        self._seen[key] += 1
        row.record.id = f"{row.record.subtask}-{row.digest}" + (f"-{again}" if again else "")
        self.progress.rows_read += 1
        (self._bad if row.record.HasField("quarantine") else self._good).append(row.record)
        self.progress.media_bytes += sum(media.size_bytes for media in row.media)
        if len(self._good) + len(self._bad) < WRITE_RECORDS:
            return False
        await self.flush()
        return True

    async def flush(self) -> None:
        """Writes the waiting records, then counts them."""
        good, bad = self._good, self._bad
        self._good, self._bad = [], []
        if good:
            await self._media.sync()  # media first: a record must never refer to media that a power cut can lose
            await self._datasets.append(self.name, good)
            await self._datasets.release(self.name, [record.id for record in good])
        if bad:
            await self._datasets.quarantine(self.name, bad)
        self.progress.records_imported += len(good)
        self.progress.rows_quarantined += len(bad)
        _count(self.progress.subtask_counts, (record.subtask for record in good))
        _count(self.progress.quarantine_reasons, (record.quarantine.reason for record in bad))


def _upload_root(folder: Path, upload: Upload) -> Path:
    """The folder that holds everything in the upload, if there is one: its name may tell the subtask."""
    tops = {entry.path.partition("/")[0] for entry in upload.files}
    only = folder / tops.pop() if len(tops) == 1 else folder
    return only if only.is_dir() else folder


def _read(reader: RowReader, batch: Batch) -> list[ReadRow]:
    return [reader.read(row) for row in batch.rows()]


def _count(counts: MutableMapping[str, int], keys: Iterator[str]) -> None:
    for key in keys:
        counts[key] += 1
