"""Entry point of the data service: builds its object graph and runs it."""

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial

from omnialign.v1 import data_service_pb2, data_service_pb2_grpc
from services.data.allocation import share_freed_memory  # first: it chooses Arrow's allocator
from services.data.bulk_media import BulkMedia
from services.data.config import DataConfig
from services.data.datasets import Datasets
from services.data.exporting.exporter import Exporter
from services.data.exporting.exports import Exports
from services.data.exporting.ledger import Ledger
from services.data.exporting.run import Stores
from services.data.garbage.collector import Collector, GarbageMetrics
from services.data.garbage.condemned import Condemned
from services.data.garbage.references import References
from services.data.importing.importer import Importer
from services.data.lineage import Lineage
from services.data.media_store import MediaStore
from services.data.media_validation import MediaLimits
from services.data.model_files import ModelFiles
from services.data.model_store import ModelStore
from services.data.models import Models
from services.data.objects import open_objects
from services.data.objects.local import INCOMING
from services.data.operations.deduplicating import Deduplicator
from services.data.operations.deriving import Deriving
from services.data.operations.media_reading import MediaReader
from services.data.packed_media import PackedMedia
from services.data.placed_media import PlacedMedia
from services.data.presigned_media import PresignedMedia
from services.data.servicer import DataServicer
from services.data.store import Store
from services.data.sweeping import sweeping
from services.data.uploads import Uploads
from services.data.usage import Usage, UsageMetrics
from services.data.uses import Uses
from services.runtime.database import Database
from services.runtime.server import Server, run
from services.sandbox.media import open_sandbox
from services.sandbox.pool import Sandbox
from services.sandbox.worker import start_server

IMPORTS_AT_FULL_SPEED = 4
FETCHES = 16
"""Requests for media that streams may have under way at a distant object store."""
FULL_NAME = data_service_pb2.DESCRIPTOR.services_by_name["DataService"].full_name


@asynccontextmanager
async def wire(server: Server, config: DataConfig) -> AsyncIterator[None]:
    """Adds the service to `server`. On exit, waits for the work in its threads, then closes what it opened."""
    start_server()
    with open_sandbox(server.registry) as sandbox:
        async with _wired(server, config, sandbox):
            yield


@asynccontextmanager
async def _wired(server: Server, config: DataConfig, sandbox: Sandbox) -> AsyncIterator[None]:
    scratch = config.root / INCOMING
    scratch.mkdir(parents=True, exist_ok=True)
    # Three pools: slow decoding of media must not delay reads and writes of tables, nor an import the uploads.
    storage_pool = ThreadPoolExecutor(config.storage_workers, thread_name_prefix="data-storage")
    media_pool = ThreadPoolExecutor(config.media_workers, thread_name_prefix="data-media")
    import_pool = ThreadPoolExecutor(IMPORTS_AT_FULL_SPEED * config.media_workers, thread_name_prefix="data-import")
    fetch_pool = ThreadPoolExecutor(FETCHES, thread_name_prefix="data-fetch")
    database = Database(config.database(), migrate=config.migrate_at_start)
    try:
        store = Store(database)
        server.prepare(FULL_NAME, store.prepare, check=store.look)
        objects = open_objects(config, registry=server.registry)
        # Checked in a thread of its own: a pool that is busy with uploads is no reason to send callers away.
        check_objects = partial(asyncio.to_thread, objects.check)
        server.prepare(FULL_NAME, check_objects, check=check_objects)
        usage = Usage(database, quotas=server.quotas, metrics=UsageMetrics(server.registry))
        uploads = Uploads(config, objects=objects, scratch=scratch, pool=storage_pool, usage=usage)
        limits = MediaLimits.of(config)
        condemned = Condemned(database, grace_seconds=config.garbage_grace_seconds)
        packed = PackedMedia(database, objects, condemned=condemned)
        media = MediaStore(
            objects,
            packed=packed,
            scratch=scratch,
            limits=limits,
            pool=media_pool,
            sandbox=sandbox,
            usage=usage,
            condemned=condemned,
            unnamed_seconds=config.unnamed_media_seconds,
        )
        uses = Uses(database)
        datasets = Datasets(
            config,
            store=store,
            objects=objects,
            pool=storage_pool,
            usage=usage,
            uses=uses,
            quotas=server.quotas,
        )
        grace_seconds = config.garbage_grace_seconds
        collector = Collector(
            database,
            objects=objects,
            packed=packed,
            condemned=condemned,
            references=References(database, datasets=datasets, usage=usage, grace_seconds=grace_seconds),
            pool=storage_pool,
            metrics=GarbageMetrics(server.registry),
            grace_seconds=grace_seconds,
        )
        models = Models(
            config,
            store=ModelStore(database),
            lineage=store,
            uploads=uploads,
            files=ModelFiles(objects=objects, pool=storage_pool),
            usage=usage,
            uses=uses,
            pool=storage_pool,
        )
        lineage = Lineage(store=store, datasets=datasets)
        ledger = Ledger(objects)
        placed = PlacedMedia(media, objects=objects, fetchers=fetch_pool)
        stores = Stores(config, datasets, placed, ledger, usage, storage_pool)
        exports = Exports(config, objects=objects, ledger=ledger, pool=storage_pool, usage=usage)
        reader = MediaReader(media, sandbox=sandbox, calls_at_once=config.media_workers)
        deduplicator = Deduplicator(config.root, media=reader, pool=storage_pool)
        servicer = DataServicer(
            datasets=datasets,
            media=media,
            bulk=BulkMedia(
                media,
                objects=objects,
                placed=placed,
                pool=storage_pool,
                link_seconds=config.link_seconds,
                file_links=config.file_links,
            ),
            presigned=PresignedMedia(config, objects=objects, media=media, pool=storage_pool, usage=usage),
            uploads=uploads,
            models=models,
            uses=uses,
            lineage=lineage,
            importer=Importer(
                config,
                datasets=datasets,
                store=store,
                objects=objects,
                media=media,
                uploads=uploads,
                usage=usage,
                pool=import_pool,
                sandbox=sandbox,
            ),
            deriving=Deriving(datasets=datasets, lineage=lineage, usage=usage, deduplicator=deduplicator),
            exporter=Exporter(stores, exports=exports),
            exports=exports,
            collector=collector,
            pool=storage_pool,
            max_append_bytes=config.max_append_bytes,
        )
        server.add(data_service_pb2_grpc.add_DataServiceServicer_to_server, servicer, FULL_NAME)
        sweeps = {
            "expired datasets": datasets.sweep_expired,
            "expired uploads": uploads.sweep,
            "expired exports": exports.sweep,
            "models without a version": models.sweep,
            "journals without a dataset": datasets.sweep_journals,
            "uses that ran out": uses.forget_expired,
        }
        garbage = {"media that nothing names": collector.sweep}
        async with (
            sweeping(sweeps, seconds=config.sweep_seconds),
            sweeping(garbage, seconds=config.collect_seconds),
            datasets.upkeep.running(),
        ):
            yield
    finally:
        storage_pool.shutdown(wait=True, cancel_futures=True)
        fetch_pool.shutdown(wait=True, cancel_futures=True)
        media_pool.shutdown(wait=True, cancel_futures=True)
        import_pool.shutdown(wait=True, cancel_futures=True)
        await database.close()


def main() -> None:
    """Runs the service until SIGTERM."""
    share_freed_memory()
    run("data", DataConfig, wire)


if __name__ == "__main__":
    main()
