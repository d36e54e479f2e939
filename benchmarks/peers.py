"""Importing 20,000 records with a picture each, and reading them back, beside `datasets` and webdataset.

All three begin with the same parquet file, as it is downloaded, and end with every record's texts and the bytes of its
picture in this process. Importing means what each needs before it can read in any order of its own: the data service
checks, hashes and stores; `datasets` prepares its Arrow cache; webdataset wants tar shards, which its own writer makes.
Only the data service decodes each picture, so a second comparison lets the two peers decode every picture once while
they import. Each reads twice, as a trainer reads epoch after epoch: the service's client by links into the service's
files, whose digests the service verified when it stored them, and over gRPC, where the client verifies them, too.

    make bench-peers

Writes docs/results/peers.json and peers.md.
"""

import argparse
import asyncio
import io
import json
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
import pyarrow.parquet as pq
import webdataset
from PIL import Image

from benchmarks.__main__ import RESULTS, write
from benchmarks.data import timed_import, write_source
from benchmarks.data_reading import MEGABYTE, timed_read
from benchmarks.results_page import installed, machine_facts, machine_line
from benchmarks.scale_services import data_service

RECORDS = 20_000
PASSES = 2
ROWS_TOGETHER = 500
SHARD_RECORDS = 2_000
TEXTS = ("question", "response_1", "response_2", "overall_response")
OURS, BY_GRPC, THEIRS = "omnialign", "omnialign, over gRPC", ("datasets", "webdataset")


def with_datasets(source: Path, folder: Path, *, decode: bool) -> Iterator[tuple[str, float, int]]:
    """Import and reads of `datasets`: what it was, its seconds, and the bytes of pictures."""
    with _clock() as clock:
        table = datasets.load_dataset("parquet", data_files=str(source), split="train", cache_dir=str(folder))
        table = table.cast_column("image", datasets.Image(decode=False))
        for row in table if decode else ():
            _decode(row["image"]["bytes"])
    yield "import", clock.seconds, 0
    for _ in range(PASSES):
        size = 0
        with _clock() as clock:
            for batch in table.iter(ROWS_TOGETHER):
                size += sum(len(image["bytes"]) for image in batch["image"])
        yield "read", clock.seconds, size


def with_webdataset(source: Path, folder: Path, *, decode: bool) -> Iterator[tuple[str, float, int]]:
    """Import and reads of webdataset, in the same form."""
    folder.mkdir()
    with (
        _clock() as clock,
        webdataset.ShardWriter(str(folder / "%06d.tar"), maxcount=SHARD_RECORDS, verbose=0) as shards,
    ):
        for index, row in enumerate(_rows(source)):
            picture = row["image"]["bytes"]
            if decode:
                _decode(picture)
            texts = {name: row[name] for name in TEXTS}
            shards.write({"__key__": f"{index:09d}", "png": picture, "json": texts})
    yield "import", clock.seconds, 0
    shards = sorted(map(str, folder.glob("*.tar")))
    for _ in range(PASSES):
        size = 0
        with _clock() as clock:
            for sample in webdataset.WebDataset(shards, shardshuffle=False):
                json.loads(sample["json"])
                size += len(sample["png"])
        yield "read", clock.seconds, size


async def with_omnialign(source: Path, folder: Path, *, links: bool) -> list[tuple[str, float, int]]:
    """Import and reads of the data service, which is a process of its own, in the same form.

    With links, the client reads the service's files; else all goes over gRPC, and the client hashes it.
    """
    async with data_service(folder) as connect, connect() as client:
        version, _, _, seconds = await timed_import(client, source)
        found = [("import", seconds, 0)]
        for _ in range(PASSES):
            (_, size), seconds = await timed_read(client, version, links=links)
            found.append(("read", seconds, size))
    return found


def measure(records: int) -> dict[str, Any]:
    """Everything once, one after the other."""
    found = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = write_source(folder, records=records)
        size = sum(path.stat().st_size for path in (folder / "plain").iterdir())
        for key, links in ((OURS, True), (BY_GRPC, False)):
            measured = asyncio.run(with_omnialign(source, folder / key.replace(", ", "-"), links=links))
            found[key] = _row(measured, size=size, records=records)
        for decode in (False, True):
            for peer, run in zip(THEIRS, (with_datasets, with_webdataset), strict=True):
                key = f"{peer}, decoding" if decode else peer
                measured = list(run(source, folder / key.replace(", ", "-"), decode=decode))
                found[key] = _row(measured, size=size, records=records)
    return {
        "records": records,
        "media_mb": round(size / MEGABYTE, 1),
        "contenders": found,
        "ratios": {peer: _ratios(found[OURS], row) for peer, row in found.items() if peer not in (OURS, BY_GRPC)},
    }


def _row(measured: list[tuple[str, float, int]], *, size: int, records: int) -> dict[str, float]:
    """Records per second of each part."""
    (_, import_seconds, _), *reads = measured
    if any(found != size for _, _, found in reads):
        raise RuntimeError(f"Of {size} bytes of pictures, {[found for _, _, found in reads]} were read.")
    row = {"import": records / import_seconds}
    row |= {f"read {number}": records / seconds for number, (_, seconds, _) in enumerate(reads, 1)}
    return {name: round(value, 1) for name, value in row.items()}


def _ratios(ours: Mapping[str, float], theirs: Mapping[str, float]) -> dict[str, float]:
    return {name: round(ours[name] / value, 3) for name, value in theirs.items()}


def page(found: Mapping[str, Any]) -> str:
    """The page in Markdown."""
    result = found["result"]
    versions = ", ".join(f"{name} {installed(name)}" for name in THEIRS)
    names = ("import", *(f"read {number}" for number in range(1, PASSES + 1)))
    lines = [
        "# Import and read beside datasets and webdataset\n",
        f"Written by `make bench-peers`; do not edit. {' '.join((__doc__ or '').split('    make')[0].split())}\n",
        f"{machine_line(found['machine'])} Beside it: {versions}.\n",
        f"{result['records']:,} records, {result['media_mb']:,} MB of pictures; records per second, and in brackets"
        " ours as a multiple of it.\n",
        f"| | {' | '.join(names)} |",
        "|---" * (len(names) + 1) + "|",
    ]
    for contender, row in result["contenders"].items():
        ratios = result["ratios"].get(contender, {})
        cells = (f"{row[name]:,.0f}" + (f" ({ratios[name]:.2f})" if ratios else "") for name in names)
        lines.append(f"| {contender} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


class _Clock:
    seconds = 0.0


@contextmanager
def _clock() -> Iterator[_Clock]:
    """Times a block."""
    clock, begun = _Clock(), time.perf_counter()
    yield clock
    clock.seconds = time.perf_counter() - begun


def _rows(source: Path) -> Iterator[Mapping[str, Any]]:
    for batch in pq.ParquetFile(source).iter_batches(ROWS_TOGETHER):
        yield from batch.to_pylist()


def _decode(picture: bytes) -> None:
    with Image.open(io.BytesIO(picture)) as image:
        image.load()


def main() -> None:
    """Measures, and writes the results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--records", type=int, default=RECORDS, help="records (%(default)s)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the results")
    settings = parser.parse_args()
    found = {"machine": machine_facts(), "result": measure(settings.records)}
    write(settings.results / "peers.json", json.dumps(found, indent=2) + "\n")
    write(settings.results / "peers.md", page(found))
    print(page(found))


if __name__ == "__main__":
    main()
