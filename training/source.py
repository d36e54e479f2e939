"""Fetches a dataset: records and their media, from the data service, once.

Rank 0 fetches and tokenises; the token ids go to a file in the cache folder that every rank reads. A later attempt
of the same run finds the file, so it trains on exactly the data that the first attempt saw. Media whose features the
model is fed are kept as bytes beside it, on every node.
"""

import asyncio
import hashlib
import json
import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from omnialign.client import AsyncClient
from omnialign.content import media_of
from omnialign.errors import NotFound, Unavailable
from omnialign.modeling.adapters import Adapter
from omnialign.v1 import record_pb2
from training import tokens
from training.connection import connection
from training.examples import Tally, examples, require_examples, require_joinable
from training.files import write_atomically
from training.media import path_of
from training.spec import Spec
from training.tokens import Example

CONCURRENT_MEDIA = 16
CHUNK_RECORDS = 128
ATTEMPTS = 9
LONGEST_WAIT_SECONDS = 15.0

log = logging.getLogger(__name__)
T = TypeVar("T")


def cache_path(spec: Spec, *, method: str, max_length: int) -> Path:
    """Where the examples of a spec are kept; another dataset, model or length gives another file."""
    key = [spec.dataset, sorted(spec.splits), method, spec.target, max_length, str(spec.base_model_dir)]
    key.append(spec.media_policy.identity)
    return spec.cache_dir / f"examples-{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]}.npz"


def prepare(spec: Spec, *, method: str, max_length: int, adapter: Adapter, rows_per_batch: int = 1) -> Path:
    """Makes sure that the file of examples exists, and returns it.

    Raises `FailedPrecondition` (NO_EXAMPLES) when no record gives one, (FEATURES_DIFFER) when not any `rows_per_batch`
    of them can be fed together, or the data service's error after a few tries.
    """
    path = cache_path(spec, method=method, max_length=max_length)
    if path.is_file():
        return path
    found, tally = _persistently(lambda: _fetch(spec, method=method, max_length=max_length, adapter=adapter))
    for words, counts in (("dropped", tally.dropped), ("media used in part", tally.media_losses)):
        if counts:
            log.warning("%s while preparing examples: %s", words, dict(counts))
    require_examples(len(found), dataset=spec.dataset, dropped=tally.dropped)
    require_joinable(tally.shapes, rows_per_batch=rows_per_batch)
    summary = {"examples": len(found), "dropped": tally.dropped, "media_losses": tally.media_losses}
    write_atomically(path.with_suffix(".json"), json.dumps(summary).encode())
    tokens.save(path, found)
    return path


def media_folder(spec: Spec) -> Path:
    """Where a run keeps the bytes of media."""
    return spec.cache_dir / "media"


def provide_media(spec: Spec, found: Sequence[Example]) -> None:
    """Makes sure that this node has the bytes of all media that the examples name.

    Only rank 0's node has them from preparing. Raises the data service's error after a few tries, and `NotFound`
    (MEDIA_NOT_FOUND) where there is no data service to ask.
    """
    folder = media_folder(spec)
    wanted = {ref.sha256 for example in found for ref in example.media}
    lacking = sorted(digest for digest in wanted if not path_of(folder, digest).is_file())
    if lacking and not spec.data_address:
        raise NotFound(
            f"{len(lacking)} media of the examples are not in {folder}, and no data_address says where to fetch them",
            reason="MEDIA_NOT_FOUND",
            metadata={"sha256": lacking[0]},
        )
    if lacking:
        _persistently(lambda: _provide(spec, lacking, folder=folder))


def _persistently(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """The result of work that needs the data service, which may be away for a while."""
    for attempt in range(1, ATTEMPTS):
        try:
            return asyncio.run(work())
        except Unavailable:
            time.sleep(min(0.5 * 2**attempt, LONGEST_WAIT_SECONDS))
    return asyncio.run(work())


async def _provide(spec: Spec, digests: Sequence[str], *, folder: Path) -> None:
    async with AsyncClient(spec.data_address, **connection(spec.job, token=spec.token)) as client:
        for start in range(0, len(digests), CHUNK_RECORDS):
            await _media(client, digests[start : start + CHUNK_RECORDS], folder=folder)


async def _fetch(spec: Spec, *, method: str, max_length: int, adapter: Adapter) -> tuple[list[Example], Tally]:
    found: list[Example] = []
    tally = Tally()
    async with AsyncClient(spec.data_address, **connection(spec.job, token=spec.token)) as client:
        async for chunk in _chunks(client, spec):
            contents = [content for r in chunk for content in (r.prompt, *(y.content for y in r.responses))]
            media = await _media(client, {item.sha256 for item in media_of(contents)}, folder=media_folder(spec))
            found += examples(
                ((record, media) for record in chunk),
                adapter=adapter,
                method=method,
                target=spec.target,
                max_length=max_length,
                tally=tally,
                policy=spec.media_policy,
            )
    return found, tally


async def _chunks(client: AsyncClient, spec: Spec) -> AsyncIterator[list[record_pb2.Record]]:
    chunk: list[record_pb2.Record] = []
    async for record in client.stream_records(spec.dataset, splits=spec.splits):
        chunk.append(record)
        if len(chunk) == CHUNK_RECORDS:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


async def _media(client: AsyncClient, wanted: Iterable[str], *, folder: Path) -> Mapping[str, bytes]:
    """The bytes of media by digest; each is fetched once, a few at a time."""
    gate = asyncio.Semaphore(CONCURRENT_MEDIA)
    digests = sorted(wanted)

    async def fetch(digest: str) -> bytes:
        cached = path_of(folder, digest)
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
