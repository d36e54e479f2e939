"""Reading records with their media, against plain reads of files with the same bytes in the same run.

A plain loop reads every file; another one hashes it as well, as a reader does who trusts nobody. The service is read
over gRPC, where the client hashes each medium, and by links into its files, which the service verified and sealed when
it stored them: a first pass, a later one such as a trainer's second epoch, and one that verifies all the same. The
recommended way is by links, in a first pass. Each way is taken a few times, every time right after its yardstick, and
the medians count: the speed of the page cache swings by a quarter.
"""

import hashlib
import os
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from omnialign.client import AsyncClient

MEGABYTE = 1_000_000
REPEATS = 5
RECOMMENDED = "links, first pass"
WAYS = (
    ("stream over gRPC", False, False),
    (RECOMMENDED, True, False),
    ("links, later pass", True, False),
    ("links, all verified", True, True),
)
"""The ways, in their order; whether by links, and whether all is verified."""


async def reading(connect: Callable[[], AsyncClient], version: str, plain: Path, *, num_records: int) -> dict[str, Any]:
    """Each way of reading beside its yardstick, for `num_records` records with one medium each, also in `plain`."""
    os.sync()
    size, hashing = 0, list[float]()
    read, loops = defaultdict[str, list[float]](list), defaultdict[str, list[float]](list)
    for _ in range(REPEATS):
        size, seconds = timed_plain(plain, lambda data: len(hashlib.sha256(data).digest()) and len(data))
        hashing.append(seconds)
        async with connect() as client:  # one that has read nothing before
            for way, links, verify in WAYS:
                loops[way].append(timed_plain(plain, len)[1])
                found, seconds = await timed_read(client, version, links=links, verify=verify)
                assert found == (num_records, size), "records or bytes were lost"
                read[way].append(seconds)
    ways = {
        way: compared(size, read[way], loops[way])
        | {"ratio to a loop that hashes": median(hashing) / median(read[way])}
        for way, *_ in WAYS
    }
    return {"plain loop that hashes": {"MB/s": size / MEGABYTE / median(hashing)}, **ways}


async def timed_read(
    client: AsyncClient, version: str, *, links: bool, verify: bool = False
) -> tuple[tuple[int, int], float]:
    """Reads all records with their media; returns their number, the bytes of the media, and seconds."""
    started, records, size = time.perf_counter(), 0, 0
    async for _, media in client.stream_records_and_media(version, links=links, verify=verify):
        records += 1
        size += sum(map(len, media.values()))
    return (records, size), time.perf_counter() - started


def timed_plain(folder: Path, take: Callable[[bytes], int]) -> tuple[int, float]:
    """Reads every file and takes its bytes; returns the sum of what that gave, and seconds."""
    started, size = time.perf_counter(), 0
    for path in folder.iterdir():
        data = path.read_bytes()  # as whoever uses it would have it: until the next one is there
        size += take(data)
    return size, time.perf_counter() - started


def comparison(size: int, seconds: float, plain_seconds: float) -> dict[str, float]:
    """Throughput of the service and of plain files for the same bytes; the ratio is the service's share of it."""
    return {
        "MB/s": size / MEGABYTE / seconds,
        "plain files MB/s": size / MEGABYTE / plain_seconds,
        "ratio": plain_seconds / seconds,
    }


def compared(size: int, seconds: Sequence[float], plain_seconds: Sequence[float]) -> dict[str, float]:
    """The comparison of the medians of runs in turn, with the least and the greatest ratio that any two would give."""
    return comparison(size, median(seconds), median(plain_seconds)) | {
        "least ratio": min(plain_seconds) / max(seconds),
        "greatest ratio": max(plain_seconds) / min(seconds),
    }
