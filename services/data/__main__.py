"""Wires the data service."""

from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

from omnialign.v1 import data_service_pb2, data_service_pb2_grpc
from services.data.config import DataConfig
from services.data.datasets import Datasets
from services.data.importing.importer import Importer
from services.data.lineage import Lineage
from services.data.media import Limits
from services.data.media_store import MediaStore
from services.data.models import Models
from services.data.servicer import DataServicer
from services.data.store import Store
from services.runtime.database import open_database
from services.runtime.server import Server, run

FULL_NAME = data_service_pb2.DESCRIPTOR.services_by_name["DataService"].full_name


@asynccontextmanager
async def wire(server: Server, config: DataConfig) -> AsyncIterator[None]:
    """Adds the service to a server; on exit closes what it opened, after the work in its threads has ended."""
    config.root.mkdir(parents=True, exist_ok=True)
    storage_pool = ThreadPoolExecutor(config.storage_workers, thread_name_prefix="data-storage")
    media_pool = ThreadPoolExecutor(config.media_workers, thread_name_prefix="data-media")
    engine = open_database(config.database())
    try:
        store = Store(engine)
        await store.prepare()
        media = MediaStore(config.root, limits=Limits.of(config), pool=media_pool)
        media.prepare()
        datasets = Datasets(config, store=store, pool=storage_pool)
        servicer = DataServicer(
            datasets=datasets,
            media=media,
            models=Models(config, store=store, pool=storage_pool),
            lineage=Lineage(store=store, datasets=datasets),
            importer=Importer(config, datasets=datasets, store=store, media=media, pool=media_pool),
            max_append_bytes=config.max_append_bytes,
        )
        server.add(data_service_pb2_grpc.add_DataServiceServicer_to_server, servicer, FULL_NAME)
        yield
    finally:
        storage_pool.shutdown(wait=True, cancel_futures=True)
        media_pool.shutdown(wait=True, cancel_futures=True)
        await engine.dispose()


def main() -> None:
    """Runs the service until SIGTERM."""
    run("data", DataConfig, wire)


if __name__ == "__main__":
    main()
