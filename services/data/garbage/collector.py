"""The garbage collector: removes media that nothing names, and packs of which little is left.

    1. datasets that lost records are counted anew                         (`references`)
    2. stored media without a holder are condemned                         (`condemned`)
    3. packs of which more than half is waste are written anew, and packs that nothing points into are condemned
    4. what was condemned a grace period ago, and still has no holder, is removed

It may be killed at any moment, and several replicas may run it at once: each step may be repeated, and removals are
claimed. It holds one page of digests, or one pack, at a time.
"""

import hashlib
import itertools
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import sqlalchemy as sa
from prometheus_client import CollectorRegistry, Counter

from services.data.garbage.condemned import PACK, Condemned
from services.data.garbage.references import References
from services.data.media_keys import MEDIA, TYPES, digest_in, media_key, split, type_key
from services.data.objects import ObjectStore
from services.data.objects.base import ObjectInfo, run_in_pool
from services.data.packed_media import PREFIX as PACKS
from services.data.packed_media import PackedMedia, ValidMedium
from services.data.store import HELD_OBJECTS, NAMES_PER_QUERY, PACKED_MEDIA, is_held, now_us
from services.runtime.database import Database

T = TypeVar("T")


class GarbageMetrics:
    """What was removed. The names are promises: dashboards and alerts use them."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.removed_media = Counter(
            "omnialign_data_garbage_media_total", "Media removed because nothing named them.", registry=registry
        )
        self.removed_bytes = Counter(
            "omnialign_data_garbage_bytes_total", "Bytes of media and packs removed from the store.", registry=registry
        )


@dataclass
class Collected:
    """What a collection did so far."""

    datasets: int = 0
    """Datasets that were counted anew."""
    examined: int = 0
    """Stored media that were looked at."""
    condemned: int = 0
    """Media without a holder that were not known to be so: they go after the grace period."""
    media: int = 0
    """Media that were removed."""
    packs: int = 0
    """Packs that were written anew without their waste."""
    size_bytes: int = 0
    """Bytes that were freed."""


class Collector:
    """The collector of one data service."""

    def __init__(
        self,
        database: Database,
        *,
        objects: ObjectStore,
        packed: PackedMedia,
        condemned: Condemned,
        references: References,
        pool: ThreadPoolExecutor,
        metrics: GarbageMetrics,
        grace_seconds: float,
    ) -> None:
        self._database, self._objects, self._packed, self._pool = database, objects, packed, pool
        self._condemned, self._references, self._metrics = condemned, references, metrics
        self._grace_us = int(grace_seconds * 1e6)

    async def sweep(self) -> int:
        """A whole collection; returns the number of media that it removed."""
        return [done.media async for done in self.collect()][-1]

    async def collect(self, *, dry_run: bool = False) -> AsyncIterator[Collected]:
        """Collects, and yields after each page what it did so far; a dry run only counts what it would condemn."""
        done = Collected()
        yield done
        await self._references.release_deleted()
        # All of them, before anything is judged: until then, they may name media that they do not hold.
        async for name in self._references.uncounted():
            done.datasets += await self._references.recount(name)
            yield done
        for digests in self._pages(self._single()), self._pages(self._types_alone()), self._packed_pages():
            async for page in digests:
                await self._in_pool(self._judge, page, dry_run, done)
                yield done
        if dry_run:
            return
        async for packs in self._pages(self._objects.list(PACKS)):
            await self._in_pool(self._tidy, packs, done)
            yield done
        while keys := await self._in_pool(self._condemned.claim):
            await self._in_pool(self._remove, keys, done)
            yield done

    def _judge(self, digests: Sequence[str], dry_run: bool, done: Collected) -> None:
        """Condemns those of a page of stored media that have no holder."""
        query = sa.select(HELD_OBJECTS.c.key).where(HELD_OBJECTS.c.key.in_(digests), is_held())
        held = set(self._database.read_here(lambda connection: connection.scalars(query).all()))
        unnamed = [digest for digest in digests if digest not in held]
        done.examined += len(digests)
        done.condemned += len(unnamed) if dry_run else self._condemned.condemn(unnamed)

    def _tidy(self, packs: Sequence[ObjectInfo], done: Collected) -> None:
        """Condemns packs without media, and writes the media of a pack that is mostly waste into another."""
        names = {bytes.fromhex(_name(info.key)): info for info in packs}
        sizes = sa.select(PACKED_MEDIA.c.pack, sa.func.sum(PACKED_MEDIA.c.size_bytes))
        query = sizes.where(PACKED_MEDIA.c.pack.in_(list(names))).group_by(PACKED_MEDIA.c.pack)
        used = {name: int(size) for name, size in self._database.read_here(lambda c: c.execute(query).all())}
        for name, info in names.items():
            if info.modified_us > now_us() - self._grace_us:
                continue  # its media may still be coming
            if 0 < used.get(name, 0) < info.size_bytes / 2:
                self._rewrite(name)
                done.packs += 1
        # A pack that was written anew is in use only if some of it is damaged: whoever claims it looks.
        wasted = [name for name in names if used.get(name, 0) < names[name].size_bytes / 2]
        self._condemned.condemn([f"{PACK}{name.hex()}" for name in wasted])

    def _rewrite(self, name: bytes) -> None:
        """Puts what is in use of a pack into a new one; the old one has no media then."""
        query = sa.select(PACKED_MEDIA.c.sha256).where(PACKED_MEDIA.c.pack == name)
        digests = self._database.read_here(lambda connection: connection.scalars(query).all())
        kept = list[ValidMedium]()
        for sha256, place in self._packed.find(digest.hex() for digest in digests).items():
            data = self._objects.read(place.key, start=place.offset, length=place.size_bytes)
            if hashlib.sha256(data).hexdigest() == sha256:  # a damaged one stays where it is, to be told from a missing
                kept.append(ValidMedium(data, sha256, place.mime_type))
        self._packed.add(kept)

    def _remove(self, keys: Sequence[str], done: Collected) -> None:
        """Removes objects that were claimed just now."""
        claimed_us, gone = now_us(), list[str]()
        for key in keys:
            if not self._condemned.is_mine(claimed_us):
                break  # the store is so slow that another process may take over
            is_pack = key.startswith(PACK)
            path = PACKS + split(key.removeprefix(PACK)) if is_pack else media_key(key)
            found = self._objects.stat(path)
            self._objects.delete(path)
            if not is_pack:
                self._objects.delete(type_key(key))
                self._packed.forget([key])
                done.media += 1
                self._metrics.removed_media.inc()
            done.size_bytes += (size := found.size_bytes if found else 0)
            self._metrics.removed_bytes.inc(size)
            gone.append(key)
        self._condemned.done(gone)

    def _single(self) -> Iterator[str]:
        """The digests of media that are objects of their own."""
        return (digest_in(info.key, MEDIA) for info in self._objects.list(MEDIA))

    def _types_alone(self) -> Iterator[str]:
        """The digests of media of which a put that was killed left the type alone."""
        found = (digest_in(info.key, TYPES) for info in self._objects.list(TYPES))
        return (digest for digest in found if self._objects.stat(media_key(digest)) is None)

    async def _pages(self, found: Iterable[T]) -> AsyncIterator[list[T]]:
        """What a store lists, page by page."""
        rest = iter(found)
        while page := await self._in_pool(lambda: list(itertools.islice(rest, NAMES_PER_QUERY))):
            yield page

    async def _packed_pages(self) -> AsyncIterator[list[str]]:
        """The digests of packed media, page by page."""
        table, last = PACKED_MEDIA.c, b""
        while True:
            query = sa.select(table.sha256).where(table.sha256 > last).order_by(table.sha256).limit(NAMES_PER_QUERY)
            if not (page := [row.sha256 for row in await self._database.all(query)]):
                return
            last = page[-1]
            yield [digest.hex() for digest in page]

    async def _in_pool(self, call: Callable[..., T], *args: object) -> T:
        return await run_in_pool(self._pool, call, *args)


def _name(key: str) -> str:
    return key.removeprefix(PACKS).replace("/", "")
