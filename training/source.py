"""Fetches a dataset: records and their media, from the data service, once.

Rank 0 fetches and tokenises; the token ids go to a file in the cache folder that every rank reads. A later attempt
of the same run finds the file, so it trains on exactly the data that the first attempt saw.
"""

import asyncio
import hashlib
import json
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

from omnialign.client import AsyncClient
from omnialign.content import media_of
from omnialign.errors import Unavailable
from omnialign.modeling.adapters import load_adapter
from omnialign.v1 import record_pb2
from training import tokens
from training.connection import connection
from training.examples import examples, require_examples
from training.files import write_atomically
from training.spec import Spec
from training.tokens import Example

CONCURRENT_MEDIA = 16
CHUNK_RECORDS = 128
ATTEMPTS = 9
LONGEST_WAIT_SECONDS = 15.0

log = logging.getLogger(__name__)


def cache_path(spec: Spec, *, method: str, max_length: int) -> Path:
    """Where the examples of a spec are kept; another dataset, model or length gives another file."""
    key = [spec.dataset, sorted(spec.splits), method, spec.target, max_length, str(spec.base_model_dir)]
    return spec.cache_dir / f"examples-{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]}.npz"


def prepare(spec: Spec, *, method: str, max_length: int) -> Path:
    """Makes sure that the file of examples exists, and returns it.

    Raises `FailedPrecondition` (NO_EXAMPLES) when no record gives one, or the data service's error after a few tries.
    """
    path = cache_path(spec, method=method, max_length=max_length)
    if path.is_file():
        return path
    for attempt in range(1, ATTEMPTS + 1):
        try:
            found, dropped = asyncio.run(_fetch(spec, method=method, max_length=max_length))
            break
        except Unavailable:
            if attempt == ATTEMPTS:
                raise
            time.sleep(min(0.5 * 2**attempt, LONGEST_WAIT_SECONDS))
    if dropped:
        log.warning("dropped while preparing examples: %s", dict(dropped))
    require_examples(len(found), dataset=spec.dataset, dropped=dropped)
    write_atomically(path.with_suffix(".json"), json.dumps({"examples": len(found), "dropped": dropped}).encode())
    tokens.save(path, found)
    return path


async def _fetch(spec: Spec, *, method: str, max_length: int) -> tuple[list[Example], Counter[str]]:
    adapter = load_adapter(spec.base_model_dir)
    found: list[Example] = []
    dropped: Counter[str] = Counter()
    async with AsyncClient(spec.data_address, **connection(spec.job, token=spec.token)) as client:
        async for chunk in _chunks(client, spec):
            media = await _media(client, chunk, folder=spec.cache_dir / "media")
            found += examples(
                ((record, media) for record in chunk),
                adapter=adapter,
                method=method,
                target=spec.target,
                max_length=max_length,
                dropped=dropped,
            )
    return found, dropped


async def _chunks(client: AsyncClient, spec: Spec) -> AsyncIterator[list[record_pb2.Record]]:
    chunk: list[record_pb2.Record] = []
    async for record in client.stream_records(spec.dataset, splits=spec.splits):
        chunk.append(record)
        if len(chunk) == CHUNK_RECORDS:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


async def _media(client: AsyncClient, records: list[record_pb2.Record], *, folder: Path) -> Mapping[str, bytes]:
    """The bytes of the media in the records, by digest; each is fetched once, a few at a time."""
    gate = asyncio.Semaphore(CONCURRENT_MEDIA)
    contents = [content for r in records for content in (r.prompt, *(y.content for y in r.responses))]
    digests = sorted({item.sha256 for item in media_of(contents)})

    async def fetch(digest: str) -> bytes:
        cached = folder / digest[:2] / digest
        if cached.is_file():
            return cached.read_bytes()
        async with gate:
            data = await client.get_media(digest)
        write_cached(cached, data)
        return data

    return dict(zip(digests, await asyncio.gather(*(fetch(digest) for digest in digests)), strict=True))


def write_cached(path: Path, data: bytes) -> None:
    """Keeps bytes that can be fetched again: whole or not at all, but with no wait for the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.with_name(f".{path.name}")
    staged.write_bytes(data)
    staged.replace(path)
