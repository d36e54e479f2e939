"""A media store on local files and SQLite without a server around it: for tests, and for processes that are killed."""

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

from prometheus_client import CollectorRegistry

from services.data.garbage.condemned import Condemned
from services.data.media_store import MediaStore
from services.data.media_validation import MediaLimits
from services.data.objects import LocalObjectStore
from services.data.packed_media import PackedMedia
from services.data.store import Store
from services.data.usage import Usage, UsageMetrics
from services.runtime.database import Database
from services.runtime.limits import Quotas
from services.sandbox.pool import Sandbox

LIMITS = MediaLimits(size_bytes=300_000, image_pixels=1_000_000, seconds=10, frames=100, frame_pixels=1_000_000)


@asynccontextmanager
async def media_store(root: Path) -> AsyncIterator[tuple[MediaStore, PackedMedia]]:
    """The store in a folder, and its packs."""
    scratch = root / "incoming"
    scratch.mkdir(parents=True, exist_ok=True)
    database, sandbox = Database(f"sqlite:///{root / 'data.db'}"), Sandbox()
    await Store(database).prepare()
    usage = Usage(database, quotas=Quotas(), metrics=UsageMetrics(CollectorRegistry()))
    objects = LocalObjectStore(root)
    condemned = Condemned(database, grace_seconds=3600.0)
    packed = PackedMedia(database, objects, condemned=condemned)
    pool = ThreadPoolExecutor(4)
    try:
        yield (
            MediaStore(
                objects,
                packed=packed,
                scratch=scratch,
                limits=LIMITS,
                pool=pool,
                sandbox=sandbox,
                usage=usage,
                condemned=condemned,
                unnamed_seconds=3600.0,
            ),
            packed,
        )
    finally:
        await asyncio.to_thread(pool.shutdown)
        sandbox.close()
        await database.close()
