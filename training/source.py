"""Fetches a dataset from the data service, once: its records, and the media that they name.

Rank 0 fetches and tokenises; the token ids go to a file in the cache folder that every rank maps. A later attempt of
the same run finds the file, so it trains on exactly the data that the first one saw. Media that the model reads as
features are kept beside it as bytes, on every node.
"""

import asyncio
import hashlib
import json
import logging
from collections.abc import AsyncIterator, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from omnialign import names
from omnialign.client import AsyncClient
from omnialign.content import contents_of, media_of
from omnialign.errors import NotFound
from omnialign.modeling.adapters import Adapter
from omnialign.retry import RetryPolicy
from omnialign.v1 import content_pb2, record_pb2
from training.client import connection_of, retry_while_away
from training.example_file import Examples, ExampleWriter, writing
from training.examples import Tally, make_examples, require_batchable, require_examples, require_few_dropped
from training.files import write_atomically, write_cached
from training.media import path_of
from training.methods import METHODS
from training.spec import Spec

CHUNK_RECORDS = 128
"""Records whose media are in memory at the same time."""
RETRIES = RetryPolicy(base_seconds=1.0, cap_seconds=15.0, max_attempts=9)
"""About a minute of pauses. Counted in attempts, because a single attempt may read for minutes."""

log = logging.getLogger(__name__)


def cache_path(spec: Spec, *, max_length: int) -> Path:
    """Where the examples of a spec are kept; another dataset, model or length gives another file."""
    key: list[Any] = [spec.dataset, sorted(spec.splits), spec.method, spec.target, max_length, str(spec.base_model_dir)]
    key.append(spec.media_policy.identity)
    key += [getattr(spec.settings, name) for name in METHODS[spec.method].row_settings]
    return spec.cache_dir / f"examples-{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]}.arrow"


class OnRead(Protocol):
    """Told how many records are read, and of how many; 0 when that is not known."""

    def __call__(self, *, read: int, total: int) -> None:
        """Hears it."""


def _unheard(*, read: int, total: int) -> None:
    """Nobody wants to know."""


def prepare(
    spec: Spec,
    *,
    max_length: int,
    adapter: Adapter,
    rows_per_batch: int = 1,
    on_read: OnRead = _unheard,
) -> Path:
    """Returns the file of examples, which is made unless it exists.

    Raises `FailedPrecondition`: NO_EXAMPLES when no record gives one, TOO_MANY_DROPPED when too few do, FEATURES_DIFFER
    when `rows_per_batch` of them may not fit into one batch. Raises the data service's error if it stays away.
    """
    path = cache_path(spec, max_length=max_length)
    if path.is_file():
        return path

    async def fetch() -> None:
        with writing(path) as writer:
            tally = await _fetch_examples(spec, writer, max_length=max_length, adapter=adapter, on_read=on_read)
            for what, counts in (("dropped", tally.dropped), ("media used in part", tally.media_losses)):
                if counts:
                    log.warning("%s while preparing examples: %s", what, dict(counts))
            require_examples(writer.count, dataset=spec.dataset, dropped=tally.dropped)
            require_few_dropped(writer.count, dropped=tally.dropped, max_fraction=spec.max_dropped_fraction)
            require_batchable(tally.shapes, rows_per_batch=rows_per_batch)
            summary = {"examples": writer.count, "dropped": tally.dropped, "media_losses": tally.media_losses}
            # The examples appear after it: their file is what a later attempt looks for.
            write_atomically(path.with_suffix(".json"), json.dumps(summary).encode())

    asyncio.run(retry_while_away(fetch, policy=RETRIES, what="fetching the dataset"))
    return path


def dropped(spec: Spec, *, max_length: int) -> dict[str, int]:
    """How many records and samples gave no example, by reason; empty where the examples were not made here."""
    try:
        summary = json.loads(cache_path(spec, max_length=max_length).with_suffix(".json").read_bytes())
    except FileNotFoundError:
        return {}
    return {str(reason): int(number) for reason, number in summary["dropped"].items()}


def media_folder(spec: Spec) -> Path:
    """Where a run keeps the bytes of media."""
    return spec.cache_dir / "media"


def provide_media(spec: Spec, examples: Examples) -> None:
    """Fetches the bytes of the examples' media that this node lacks; only rank 0's node has them from preparing.

    Raises the data service's error if it stays away, and `NotFound` (MEDIA_NOT_FOUND) without a data service to ask.
    """
    folder = media_folder(spec)
    lacking = sorted({digest for digest in examples.digests() if not path_of(folder, digest).is_file()})
    if lacking and not spec.data_address:
        raise NotFound(
            f"{len(lacking)} media of the examples are not in {folder}: set data_address to fetch them",
            reason="MEDIA_NOT_FOUND",
            metadata={"sha256": lacking[0]},
        )

    async def fetch() -> None:
        async with _client(spec) as client:
            for start in range(0, len(lacking), CHUNK_RECORDS):
                await _fetch_media(client, lacking[start : start + CHUNK_RECORDS], folder=folder)

    if lacking:
        asyncio.run(retry_while_away(fetch, policy=RETRIES, what="fetching media"))


def _client(spec: Spec) -> AsyncClient:
    return AsyncClient(spec.data_address, **connection_of(spec.job, token=spec.token))


async def _fetch_examples(
    spec: Spec, writer: ExampleWriter, *, max_length: int, adapter: Adapter, on_read: OnRead
) -> Tally:
    tally, read = Tally(), 0
    async with _client(spec) as client:
        total = await _record_count(client, spec)
        async for chunk in _chunks(client, spec):
            on_read(read=read, total=total)
            read += len(chunk)
            digests = {item.sha256 for record in chunk for item in media_of(contents_of(record))}
            media = await _fetch_media(client, digests, folder=media_folder(spec))
            writer.add(
                make_examples(
                    ((record, media) for record in chunk),
                    adapter=adapter,
                    method=spec.method,
                    target=spec.target,
                    max_length=max_length,
                    tally=tally,
                    policy=spec.media_policy,
                    settings=spec.settings,
                )
            )
    return tally


async def _record_count(client: AsyncClient, spec: Spec) -> int:
    """Records to read; 0 if that is not known, because nobody keeps the sizes of splits."""
    if spec.splits:
        return 0
    if names.matches(spec.dataset, names.DATASET_VERSION):
        return int((await client.get_dataset_version(spec.dataset)).record_count)
    return int((await client.get_dataset(spec.dataset)).record_count)


async def _chunks(client: AsyncClient, spec: Spec) -> AsyncIterator[list[record_pb2.Record]]:
    chunk: list[record_pb2.Record] = []
    async for record in client.stream_records(spec.dataset, splits=spec.splits):
        chunk.append(record)
        if len(chunk) == CHUNK_RECORDS:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


async def provide_bytes(
    spec: Spec, *, kept: Iterable[content_pb2.Media], passing: Iterable[content_pb2.Media]
) -> Mapping[str, bytes]:
    """The bytes of media by digest; those of `kept` come from the run's folder and stay there.

    Raises the data service's error if it stays away.
    """
    stored, others = {item.sha256 for item in kept}, {item.sha256 for item in passing}

    async def fetch() -> dict[str, bytes]:
        async with _client(spec) as client:
            found = dict(await _fetch_media(client, stored, folder=media_folder(spec)))
            fetched = await client.fetch_media(sorted(others - stored))
            return found | {digest: fetched[digest] for digest in others - stored}

    return await retry_while_away(fetch, policy=RETRIES, what="fetching media") if stored or others else {}


async def _fetch_media(client: AsyncClient, wanted: Iterable[str], *, folder: Path) -> Mapping[str, bytes]:
    """The bytes of media by digest. Each is fetched once and kept in `folder`."""
    found = dict[str, bytes]()
    for digest in sorted(wanted):
        if (cached := path_of(folder, digest)).is_file():
            found[digest] = cached.read_bytes()
    lacking = [digest for digest in sorted(wanted) if digest not in found]
    fetched = await client.fetch_media(lacking) if lacking else {}
    for digest in lacking:
        found[digest] = fetched[digest]
        write_cached(path_of(folder, digest), found[digest])
    return found
