"""Import and streaming read of records with media through DataService, against the same bytes from the disk.

The data set is a parquet file of the text-image-to-text schema with one different picture per row: noise, so that
neither PNG nor the store can shrink it, and every object has to be decoded, hashed, stored and sent. The yardsticks
handle files of the same bytes with plain Python: a loop in a process for each core decodes, hashes and copies them,
which an import does, too; another one only copies. For reading, `data_reading` has them. All sides find the page cache
warm, and nothing of what another side wrote that still has to go to the disk. Imports and the loop run in turn, each a
few times, and their medians count, as those of reads do: how fast files are made swings by more than twice.
"""

import argparse
import asyncio
import hashlib
import io
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from benchmarks.data_reading import MEGABYTE, RECOMMENDED, compared, comparison, reading
from benchmarks.scale_services import data_service
from omnialign.client import AsyncClient
from omnialign.v1 import record_pb2

EDGE_PIXELS = 64
REPEATS = 5
ROWS_PER_GROUP, MAX_GROUP_BYTES = 500, 32 * 1024 * 1024
LARGE_EDGE_PIXELS, MAX_LARGE = 580, 1000
"""Pictures of 1 MB."""


def pictures(count: int, edge_pixels: int) -> Iterator[bytes]:
    """Different PNG files of noise, the same ones in every run."""
    random = np.random.default_rng(0)
    for _ in range(count):
        buffer = io.BytesIO()
        pixels = random.integers(0, 256, (edge_pixels, edge_pixels, 3), dtype=np.uint8)
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


def write_source(folder: Path, *, records: int, edge_pixels: int = EDGE_PIXELS) -> Path:
    """Writes the data set and, beside it, each picture as a file for the yardstick."""
    folder.mkdir(exist_ok=True)
    source, plain = folder / "text-image-to-text.parquet", folder / "plain"
    plain.mkdir()
    rows, writer = [], None
    for index, picture in enumerate(pictures(records, edge_pixels)):
        (plain / f"{index}.png").write_bytes(picture)
        rows.append(row(index, picture))
        is_full = len(rows) == ROWS_PER_GROUP or len(rows) * len(picture) >= MAX_GROUP_BYTES
        if is_full or index == records - 1:
            table, rows = pa.Table.from_pylist(rows), []
            writer = writer or pq.ParquetWriter(source, table.schema)
            writer.write_table(table)
    if writer:
        writer.close()
    return source


async def timed_import(client: AsyncClient, source: Path, *, dataset: str = "bench") -> tuple[str, int, int, float]:
    """Imports; returns the version's name, its records, bytes of media stored, and seconds."""
    os.sync()
    started = time.perf_counter()
    last = None
    async for progress in client.import_dataset(dataset, source.as_uri(), subtask="ti2t", split="train"):
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


def timed_plain_copy(folder: Path, target: Path) -> float:
    """Copies every file; returns seconds."""
    os.sync()
    started = time.perf_counter()
    shutil.copytree(folder, target)
    return time.perf_counter() - started


def timed_plain_loop(folder: Path, target: Path) -> float:
    """Decodes, hashes and copies every file, in a process for each core that has started already; returns seconds."""
    target.mkdir()
    paths, cores = sorted(folder.iterdir()), os.cpu_count() or 1
    # Not forked: gRPC has threads in this process.
    with ProcessPoolExecutor(cores, get_context("spawn")) as processes:
        list(processes.map(take, [()] * cores, [target] * cores))
        os.sync()
        started = time.perf_counter()
        list(processes.map(take, [paths[core::cores] for core in range(cores)], [target] * cores))
        return time.perf_counter() - started


def take(paths: Sequence[Path], target: Path) -> None:
    """Decodes, hashes and copies files, each under its digest."""
    for path in paths:
        data = path.read_bytes()
        Image.open(io.BytesIO(data)).load()
        (target / hashlib.sha256(data).hexdigest()).write_bytes(data)


async def imports_in_turn(folder: Path, source: Path) -> tuple[list[float], list[float]]:
    """Seconds of imports, each into a new service, and of the loop over the same pictures before each of them."""
    imports, loops = list[float](), list[float]()
    for _ in range(REPEATS):
        with tempfile.TemporaryDirectory(dir=folder) as name:
            loops.append(timed_plain_loop(source.parent / "plain", Path(name) / "loop"))
            async with data_service(Path(name) / "state") as connect, connect() as client:
                imports.append((await timed_import(client, source))[-1])
    return imports, loops


async def run_async(folder: Path, *, records: int) -> dict[str, Any]:
    """Imports, streams and reads back, each beside its yardstick."""
    source, plain = write_source(folder, records=records), folder / "plain"
    large = write_source(folder / "large", records=min(records, MAX_LARGE), edge_pixels=LARGE_EDGE_PIXELS)
    size, large_size = size_of(plain), size_of(large.parent / "plain")
    imports, loops = await imports_in_turn(folder, source)
    large_imports, large_loops = await imports_in_turn(folder, large)
    copy_seconds = timed_plain_copy(plain, folder / "copy")
    async with data_service(folder / "state") as connect, connect() as client:
        version, imported, stored, _ = await timed_import(client, source)
        *_, again_seconds = await timed_import(client, source)
        streamed, stream_seconds = await timed_records(client, version)
        assert (imported, len(streamed), stored) == (records, records, size), "records or bytes were lost"
        large_version, large_records, *_ = await timed_import(client, large, dataset="large")
        ways = await reading(connect, version, plain, num_records=records)
        large_ways = await reading(connect, large_version, large.parent / "plain", num_records=large_records)
    return {
        "records": records,
        "media (MB)": size / MEGABYTE,
        "media per record (bytes)": size // records,
        "import": compared(size, imports, loops) | {"records per second": records / median(imports)},
        "import media of 1 MB": compared(large_size, large_imports, large_loops),
        "import against a plain copy": comparison(size, median(imports), copy_seconds),
        "import again": {"seconds": again_seconds, "share of the first": again_seconds / median(imports)},
        "read records": {"records per second": records / stream_seconds},
        "read records and media": ways[RECOMMENDED],
        "read records and media of 1 MB": large_ways[RECOMMENDED],
        "ways to read": {"media of 12 KB": ways, "media of 1 MB": large_ways},
    }


def size_of(folder: Path) -> int:
    """Bytes of the files in a folder."""
    return sum(path.stat().st_size for path in folder.iterdir())


def run(settings: argparse.Namespace) -> dict[str, Any]:
    """The benchmark, with `settings.records` records in a temporary folder."""
    with tempfile.TemporaryDirectory() as folder:
        found = asyncio.run(run_async(Path(folder), records=settings.records))
    return {
        "title": "Import and streaming read (data)",
        "about": "DataService on loopback, in a process of its own; one different picture per record.",
        **found,
    }
