"""Reading records with their media, against plain reads of files with the same bytes in the same run.

A plain loop reads every file; another one hashes it as well, as a reader does who trusts nobody. The service is read
over gRPC, where the client hashes each medium, and by links into its files, which the service verified and sealed when
it stored them: a first pass, a later one such as a trainer's second epoch, and one that verifies all the same. The
recommended way is by links, in a first pass.
"""

import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from omnialign.client import AsyncClient

MEGABYTE = 1_000_000
RECOMMENDED = "links, first pass"
WAYS = (
    ("stream over gRPC", False, False),
    (RECOMMENDED, True, False),
    ("links, later pass", True, False),
    ("links, all verified", True, True),
)
"""The ways, in their order; whether by links, and whether all is verified."""


async def reading(client: AsyncClient, version: str, plain: Path, *, num_records: int) -> dict[str, Any]:
    """Each way of reading beside its yardstick, for `num_records` records with one medium each, also in `plain`.

    `client` must not have read them before.
    """
    size, plain_seconds = timed_plain(plain, len)
    _, hashing_seconds = timed_plain(plain, lambda data: len(hashlib.sha256(data).digest()) and len(data))
    ways = dict[str, dict[str, float]]()
    for way, links, verify in WAYS:
        found, seconds = await timed_read(client, version, links=links, verify=verify)
        assert found == (num_records, size), "records or bytes were lost"
        ways[way] = comparison(size, seconds, plain_seconds) | {
            "ratio to a loop that hashes": hashing_seconds / seconds
        }
    return {"plain loop that hashes": {"MB/s": size / MEGABYTE / hashing_seconds}, **ways}


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
