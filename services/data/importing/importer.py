"""Importing files in the schemas of align-anything-200k, or in another format, as a new version of a dataset.

All files are looked through first, so that one that would be misread is refused before anything is written. Then
children read them ahead, convert rows to records, and decode their media; the records are written by id in order. Rows
that cannot be converted go to the dataset's quarantine and are counted by reason; they never stop the import. At the
end, what earlier imports of the same files gave and this one does not is removed. An import that fails leaves the
dataset as it was, but for records that were written already; one that it created without any is removed.
"""

import asyncio
import itertools
import shutil
import tempfile
from collections import Counter, deque
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from omnialign.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, valid_text
from omnialign.v1 import data_service_pb2, dataset_pb2
from omnialign.v1.data_service_pb2 import ImportDatasetRequest as Request
from omnialign.v1.data_service_pb2 import ImportDatasetResponse as Progress
from services.data.config import DataConfig
from services.data.datasets import Datasets
from services.data.importing.coverage import nearest
from services.data.importing.file_keys import FileState, key_of
from services.data.importing.formats.own import NAME as WHOLE_RECORDS
from services.data.importing.formats.registry import ALIGN_ANYTHING
from services.data.importing.identity import source_digest
from services.data.importing.ids import Ids
from services.data.importing.import_run import ImportRun, RowsDiffer
from services.data.importing.journal import Array, Journal, sorted_states
from services.data.importing.pace import Pace
from services.data.importing.past import Past, Plan
from services.data.importing.readers import Survey, survey
from services.data.importing.reading import Reading
from services.data.importing.reading_ahead import READING_LIMITS, Readers
from services.data.importing.refusal import killed_reader
from services.data.importing.sources import SourceFile, Sources, find_files
from services.data.media_store import MediaStore
from services.data.media_validation import MediaLimits
from services.data.objects import ObjectStore
from services.data.objects.base import run_in_pool
from services.data.store import MAX_NAME_CHARACTERS, Store
from services.data.uploads import IMPORT_FOLDER, Upload, Uploads, is_upload, local_path
from services.data.usage import Usage
from services.runtime.locks import NamedLocks
from services.sandbox.pool import Sandbox

MAX_LISTED_FILES = 100


class Importer:
    """Runs imports."""

    def __init__(
        self,
        config: DataConfig,
        *,
        datasets: Datasets,
        store: Store,
        objects: ObjectStore,
        media: MediaStore,
        uploads: Uploads,
        usage: Usage,
        pool: ThreadPoolExecutor,
        sandbox: Sandbox,
    ) -> None:
        self._config, self._datasets, self._store, self._media, self._pool = config, datasets, store, media, pool
        self._uploads, self._usage, self._sandbox = uploads, usage, sandbox
        self._objects, self._limits = objects, MediaLimits.of(config)
        self._readers = Readers(sandbox=sandbox, media=media, limits=self._limits, pool=pool, most=config.media_workers)
        self._locks = NamedLocks()
        self._running: Counter[str] = Counter()
        self._created: set[str] = set()

    async def run(self, request: Request) -> AsyncIterator[Progress]:
        """Imports a source; yields progress at once and after each write, and finally the version.

        Raises the reasons of `sources.find_files`, `uploads.local_path`, `readers.survey` and `Reading.of`,
        URI_TOO_LONG, QUOTA_EXCEEDED, and NO_VALID_ROWS, which says for each reason what is wrong with one row.
        """
        reading, name = Reading.of(request), f"{request.parent}/datasets/{request.dataset_id}"
        async with self._source(request) as (path, uri):
            sources = await run_in_pool(
                self._pool, find_files, path, subtask=request.subtask, split=request.split, form=request.format
            )
            progress = Progress()
            # Before the look through all files, which may take long: tells the caller that the import has begun.
            yield progress
            async with self._locks[name]:  # an import that was left may still be writing
                past = await self._past(name)
            plans = [plan async for plan in self._plans(sources, request, past, progress)]
            async with self._dataset(request):
                past = await self._past(name, past)
                head = await self._head(name, plans)
                run = self._run(request, past, plans, progress, head)
                try:
                    async for progress in self._import(plans, reading, run, past):
                        yield progress
                except RowsDiffer:  # then everything is read again
                    run = self._run(request, past, plans, run.progress, head)
                    async for progress in self._import(plans, reading, run, None):
                        yield progress
                version = await self._datasets.commit(name)
                await self._add_lineage(request.parent, name, uri, version)
                progress.dataset_version.CopyFrom(version)
                yield progress

    def _run(
        self, request: Request, past: Past, plans: list[Plan], progress: Progress, head: Array | None
    ) -> ImportRun:
        """A new run, whose progress has what was found before anything was read."""
        name = f"{request.parent}/datasets/{request.dataset_id}"
        run = ImportRun(
            name,
            datasets=self._datasets,
            media=self._media,
            usage=self._usage,
            append=request.append,
            journal=past.journal,
            has_one_source=len({source_digest(plan.file) for plan in plans}) == 1,
            ids=Ids(head, append=request.append) if head is not None else None,
            lock=self._locks[name],
        )
        run.progress.rows_total = progress.rows_total
        run.progress.skipped_files.extend(progress.skipped_files)
        run.progress.file_formats.extend(progress.file_formats)
        run.progress.unread_columns.extend(progress.unread_columns)
        return run

    async def _head(self, name: str, plans: list[Plan]) -> Array | None:
        """The states of the dataset's records, if whole records are to be imported, which keep their ids."""
        if all(plan.file.format != WHOLE_RECORDS for plan in plans):
            return None
        return sorted_states(await self._datasets.states(name))

    async def _past(self, name: str, known: Past | None = None) -> Past:
        """What earlier imports wrote into a dataset; `known` if it is still the same one."""
        uid = await self._store.dataset_uid(name) or ""
        if known is not None and known.journal.uid in ("", uid):
            known.journal.uid = uid
            return known
        journal = await run_in_pool(self._pool, Journal, self._objects, uid)
        if not journal.is_empty:
            return Past(
                journal, await self._datasets.states(name), await self._datasets.states(name, in_quarantine=True)
            )
        return Past(journal)

    async def _plans(self, sources: Sources, request: Request, past: Past, progress: Progress) -> AsyncIterator[Plan]:
        """Looks through all files, some at a time, and lists their formats and what will not be read."""
        for name, why in list(sources.skipped.items())[:MAX_LISTED_FILES]:
            progress.skipped_files.add(file=valid_text(name), why=valid_text(why))
        files, count, looks = iter(sources.files), 0, deque[asyncio.Task[Plan]]()
        try:
            while True:
                for file in itertools.islice(files, self._config.media_workers - len(looks)):
                    looks.append(asyncio.create_task(self._plan(file, request, past)))
                if not looks:
                    return
                plan = await looks.popleft()
                yield plan
                count += 1
                _list(plan, progress, has_format=count <= MAX_LISTED_FILES)
        finally:
            for look in looks:
                look.cancel()
            await asyncio.gather(*looks, return_exceptions=True)

    async def _plan(self, file: SourceFile, request: Request, past: Past) -> Plan:
        state = await run_in_pool(self._pool, FileState.of, file.path)
        # Of a dataset that has nothing yet, no file is known, and none need be hashed before it is looked at.
        look = asyncio.create_task(self._look_at(file, request)) if past.journal.is_empty else None
        try:
            key = await key_of(file, request, self._limits, self._pool)
            if (found := Survey.known(file, past.journal.survey(key))) is None:
                found = await (look or self._look_at(file, request))
        finally:
            if look:
                look.cancel()
        return Plan(found, key, state)

    async def _look_at(self, file: SourceFile, request: Request) -> Survey:
        return await self._sandbox.in_thread(
            partial(self._sandbox.call, survey, file, Reading.of(request), refusal=killed_reader, limits=READING_LIMITS)
        )

    async def _import(
        self, plans: list[Plan], reading: Reading, run: ImportRun, past: Past | None
    ) -> AsyncIterator[Progress]:
        """Reads the files, but for what an earlier import wrote. Raises NO_VALID_ROWS, RowsDiffer."""
        pace = Pace()
        try:
            for plan in plans:
                run.begin(plan.file, key=plan.key, survey=plan.survey.told(), state=plan.state)
                at, is_done = await self._replay(plan, run, past) if past else (0, False)
                if is_done:
                    continue
                async for piece in self._readers.read(plan.file, reading, rows=plan.survey.rows, start=at):
                    await run.add(piece)
                    pace.note(run.progress)
                    if pace.is_due():
                        yield run.progress
                run.end()
            await run.flush()
        finally:
            await run.abandon()
        if not run.progress.records_imported:
            message = f"None of {run.progress.rows_read} rows can be imported."
            reasons = {reason: str(count) for reason, count in run.progress.quarantine_reasons.items()}
            violations = list(run.examples.items())
            raise FailedPrecondition(message, reason="NO_VALID_ROWS", metadata=reasons, violations=violations)
        await run.finish()
        pace.note(run.progress)
        yield run.progress

    async def _replay(self, plan: Plan, run: ImportRun, past: Past) -> tuple[int, bool]:
        """Counts what is there of a file; how many of its rows that are, and whether it is all of them."""
        at, is_done = 0, False
        parts = past.written(plan)
        while (found := await run_in_pool(self._pool, next, parts, None)) is not None:
            run.replay(*found)
            at, is_done = found[0].end, found[0].is_last
        return at, is_done

    @asynccontextmanager
    async def _source(self, request: Request) -> AsyncIterator[tuple[Path, str]]:
        """The files as a local path, and their name in the lineage. An upload is downloaded and removed afterwards."""
        if not is_upload(request.source_uri):
            path = local_path(request.source_uri, roots=self._config.roots())
            yield path, _lineage_name(path)
            return
        upload = await self._uploads.get(request.source_uri, parent=request.parent)
        await self._usage.release(upload.name)  # what it brings counts instead
        folder = Path(await run_in_pool(self._pool, tempfile.mkdtemp, prefix=IMPORT_FOLDER, dir=self._config.root))
        try:
            with self._uploads.reading(upload):
                await run_in_pool(self._pool, self._uploads.fetch, upload, folder)
            yield _upload_root(folder, upload), upload.name
        finally:
            await run_in_pool(self._pool, shutil.rmtree, folder, ignore_errors=True)

    @asynccontextmanager
    async def _dataset(self, request: Request) -> AsyncIterator[None]:
        """The dataset that an import writes to, created if it is missing.

        The last import to end removes it if an import created it and all of them left it empty.
        """
        name = f"{request.parent}/datasets/{request.dataset_id}"
        self._running[name] += 1
        try:
            if await self._ensure(request):
                self._created.add(name)
            yield
        finally:
            self._running[name] -= 1
            if not self._running[name]:
                del self._running[name]
                if name in self._created:
                    self._created.discard(name)
                    await self._datasets.delete_if_empty(name)

    async def _ensure(self, request: Request) -> bool:
        """Creates the dataset if it is missing, even if another import does so at the same time; whether it did."""
        name = f"{request.parent}/datasets/{request.dataset_id}"
        try:
            await self._datasets.get(name)
        except NotFound:
            wanted = dataset_pb2.Dataset(display_name=f"Imported from {request.source_uri}"[:200])
            if request.HasField("ttl"):
                wanted.ttl.CopyFrom(request.ttl)
            try:
                await self._datasets.create(request.parent, request.dataset_id, wanted, key="", digest="")
            except AlreadyExists:
                return False
            return True
        return False

    async def _add_lineage(self, parent: str, name: str, uri: str, version: dataset_pb2.DatasetVersion) -> None:
        edge = data_service_pb2.LineageEdge
        edges = [
            edge(source=uri, target=name, relation="imported_from"),
            edge(source=uri, target=version.name, relation="imported_from"),
            edge(source=name, target=version.name, relation="committed_from"),
        ]
        await self._store.add_edges(parent, edges)


def _list(plan: Plan, progress: Progress, *, has_format: bool) -> None:
    """Adds what was found of a file to the progress."""
    file, name = plan.file, valid_text(plan.file.name)
    progress.rows_total += plan.survey.rows
    if has_format:
        form = file.format or ALIGN_ANYTHING
        progress.file_formats.add(file=name, format=form, told_by=valid_text(file.told_by))
    for column, rows in plan.survey.unread.most_common():
        similar = nearest(file.subtask, column, form=file.format)
        progress.unread_columns.add(file=name, column=valid_text(column), rows=rows, nearest=similar)


def _lineage_name(path: Path) -> str:
    """The source's name in the lineage. Raises URI_TOO_LONG; in a URI, a character of a path may take up nine."""
    uri = path.as_uri()
    if len(uri) > MAX_NAME_CHARACTERS:
        message = (
            f"The address of the source, {uri[:80]}..., has {len(uri)} characters, and up to {MAX_NAME_CHARACTERS} are "
            "taken: move the files to a folder with a shorter path, or upload them."
        )
        metadata = {"characters": str(len(uri)), "limit": str(MAX_NAME_CHARACTERS)}
        raise InvalidArgument(message, reason="URI_TOO_LONG", metadata=metadata)
    return uri


def _upload_root(folder: Path, upload: Upload) -> Path:
    """The folder that holds everything in the upload, if there is one: its name may tell the subtask."""
    tops = {entry.path.partition("/")[0] for entry in upload.files}
    only = folder / tops.pop() if len(tops) == 1 else folder
    return only if only.is_dir() else folder
