"""Import and streaming read of records with media through DataService, against the same bytes from the disk.

The data set is a parquet file of the text-image-to-text schema with one different picture per row: noise, so that
neither PNG nor the store can shrink it, and every object has to be decoded, hashed, stored and sent. The yardsticks
handle files of the same bytes with plain Python: a loop reads them; another, in a process for each core, decodes,
hashes and copies them, which an import does, too; and a third only copies. All sides find the page cache warm.
"""

import argparse
import asyncio
import hashlib
import io
import os
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from omnialign.client import AsyncClient
from omnialign.content import media_of
from omnialign.v1 import record_pb2
from services.data.__main__ import wire
from services.data.config import DataConfig
from services.runtime.config import ServerConfig
from services.runtime.server import Server

EDGE_PIXELS = 64
ROWS_PER_GROUP = 500
READERS = 8
MEGABYTE = 1_000_000


def pictures(count: int) -> Iterator[bytes]:
    """Different PNG files of noise, the same ones in every run."""
    random = np.random.default_rng(0)
    for _ in range(count):
        buffer = io.BytesIO()
        pixels = random.integers(0, 256, (EDGE_PIXELS, EDGE_PIXELS, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(buffer, "PNG")
        yield buffer.getvalue()


def row(index: int, picture: bytes) -> dict[str, Any]:
    """One row of the text-image-to-text schema."""
    return {
        "question": f"What does picture {index} show?",
        "image": {"bytes": picture, "path": f"{index}.png"},
        "response_1": f"Noise, seen {index} times.",
        "response_2": "Nothing that could be named.",
        "overall_response": 1 + index % 2,
    }


def write_source(folder: Path, *, records: int) -> Path:
    """Writes the data set and, beside it, each picture as a file for the yardstick."""
    source, plain = folder / "text-image-to-text.parquet", folder / "plain"
    plain.mkdir()
    rows, writer = [], None
    for index, picture in enumerate(pictures(records)):
        (plain / f"{index}.png").write_bytes(picture)
        rows.append(row(index, picture))
        if len(rows) == ROWS_PER_GROUP or index == records - 1:
            table, rows = pa.Table.from_pylist(rows), []
            writer = writer or pq.ParquetWriter(source, table.schema)
            writer.write_table(table)
    if writer:
        writer.close()
    return source


@asynccontextmanager
async def data_service(root: Path) -> AsyncIterator[AsyncClient]:
    """A real DataService on loopback, and a client of it."""
    server = Server(ServerConfig(), name="bench")
    async with wire(server, DataConfig(root=root)):
        await server.start()
        server.set_serving()
        async with AsyncClient(server.address) as client:
            yield client
        await server.stop(0)


async def timed_import(client: AsyncClient, source: Path) -> tuple[str, int, int, float]:
    """Imports; returns the version's name, its records, bytes of media stored, and seconds."""
    started = time.perf_counter()
    last = None
    async for progress in client.import_dataset("bench", source.as_uri(), subtask="ti2t", split="train"):
        last = progress
    assert last is not None
    return (
        last.dataset_version.name, last.records_imported, last.media_bytes, time.perf_counter() - started,
    )  # fmt: skip


async def timed_records(client: AsyncClient, version: str) -> tuple[list[record_pb2.Record], float]:
    """Streams all records; returns them and the seconds it took."""
    started = time.perf_counter()
    records = [record async for record in client.stream_records(version)]
    return records, time.perf_counter() - started


async def timed_media(client: AsyncClient, digests: list[str]) -> tuple[int, float]:
    """Reads media with a few readers at once; returns bytes and seconds. The client checks each digest."""
    remaining, sizes = iter(digests), []

    async def reader() -> None:
        for digest in remaining:
            sizes.append(len(await client.get_media(digest)))

    started = time.perf_counter()
    await asyncio.gather(*(reader() for _ in range(READERS)))
    return sum(sizes), time.perf_counter() - started


def timed_plain_read(folder: Path) -> tuple[int, float]:
    """Reads every file; returns bytes and seconds."""
    started = time.perf_counter()
    size = sum(len(path.read_bytes()) for path in folder.iterdir())
    return size, time.perf_counter() - started


def timed_plain_copy(folder: Path, target: Path) -> float:
    """Copies every file; returns seconds."""
    started = time.perf_counter()
    shutil.copytree(folder, target)
    return time.perf_counter() - started


def timed_plain_loop(folder: Path, target: Path) -> float:
    """Decodes, hashes and copies every file, in a process for each core that has started already; returns seconds."""
    target.mkdir()
    paths, cores = sorted(folder.iterdir()), os.cpu_count() or 1
    with ProcessPoolExecutor(cores) as processes:
        list(processes.map(take, [()] * cores, [target] * cores))
        started = time.perf_counter()
        list(processes.map(take, [paths[core::cores] for core in range(cores)], [target] * cores))
        return time.perf_counter() - started


def take(paths: Sequence[Path], target: Path) -> None:
    """Decodes, hashes and copies files, each under its digest."""
    for path in paths:
        data = path.read_bytes()
        Image.open(io.BytesIO(data)).load()
        (target / hashlib.sha256(data).hexdigest()).write_bytes(data)


async def run_async(folder: Path, *, records: int) -> dict[str, Any]:
    """Imports, streams and reads back once, each beside its yardstick."""
    source, plain = write_source(folder, records=records), folder / "plain"
    size, read_seconds = timed_plain_read(plain)
    loop_seconds, copy_seconds = timed_plain_loop(plain, folder / "loop"), timed_plain_copy(plain, folder / "copy")
    async with data_service(folder / "state") as client:
        version, imported, stored, import_seconds = await timed_import(client, source)
        *_, again_seconds = await timed_import(client, source)
        streamed, stream_seconds = await timed_records(client, version)
        digests = [media.sha256 for record in streamed for media in media_of([record.prompt])]
        fetched, fetch_seconds = await timed_media(client, digests)
    assert (imported, len(streamed), stored, fetched) == (records, records, size, size), "records or bytes were lost"
    return {
        "records": records,
        "media (MB)": size / MEGABYTE,
        "media per record (bytes)": size // records,
        "import": comparison(size, import_seconds, loop_seconds) | {"records per second": records / import_seconds},
        "import against a plain copy": comparison(size, import_seconds, copy_seconds),
        "import again": {"seconds": again_seconds, "share of the first": again_seconds / import_seconds},
        "read records": {"records per second": records / stream_seconds},
        "read records and media": comparison(size, stream_seconds + fetch_seconds, read_seconds),
    }


def comparison(size: int, seconds: float, plain_seconds: float) -> dict[str, float]:
    """Throughput of the service and of plain files for the same bytes; the ratio is the service's share of it."""
    return {
        "MB/s": size / MEGABYTE / seconds,
        "plain files MB/s": size / MEGABYTE / plain_seconds,
        "ratio": plain_seconds / seconds,
    }


def run(settings: argparse.Namespace) -> dict[str, Any]:
    """The benchmark, with `settings.records` records in a temporary folder."""
    with tempfile.TemporaryDirectory() as folder:
        found = asyncio.run(run_async(Path(folder), records=settings.records))
    return {
        "title": "Import and streaming read (data)",
        "about": "DataService on loopback, client in the same process, one different picture per record.",
        **found,
    }
