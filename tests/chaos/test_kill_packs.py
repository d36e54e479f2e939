"""Kills the writer of packs at random moments: what it said to be stored is, and nothing points at what is not."""

import asyncio
import hashlib
import random
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from services.data.media_store import ValidMedium
from services.data.packed_media import PREFIX
from services.data.packs import read_entries
from tests.services.data.media_store_on_disk import media_store

KILLS, BATCHES, BATCH_MEDIA = 20, 400, 24
WRITER = """
import asyncio, sys
from pathlib import Path
from tests.chaos.test_kill_packs import BATCHES, batch
from tests.services.data.media_store_on_disk import media_store

async def write() -> None:
    async with media_store(Path(sys.argv[1])) as (store, _):
        for number in range(int(sys.argv[2]), BATCHES):
            found = await asyncio.to_thread(store.put_valid, batch(number))
            assert [one.sha256 for one in found] == [one.sha256 for one in batch(number)]
            print(number, flush=True)

asyncio.run(write())
"""


def batch(number: int) -> list[ValidMedium]:
    """Media that stand for decoded ones; some of them are in the batch before, too."""
    made = [random.Random(number * (BATCH_MEDIA - 5) + n).randbytes(2_000 + 50 * n) for n in range(BATCH_MEDIA)]
    return [ValidMedium(data, hashlib.sha256(data).hexdigest(), "image/png") for data in made]


def write_and_kill(root: Path, start: int, seconds: float) -> int:
    """How many batches were stored by the writer's own word when it was killed so long after its first one."""
    command = [sys.executable, "-c", WRITER, str(root), str(start)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        done = int(process.stdout.readline()) + 1
        time.sleep(seconds)  # a moment of chance is what the test is about
        process.send_signal(signal.SIGKILL)
        for line in process.stdout:
            done = int(line) + 1 if line.endswith("\n") else done
    return done


def _slice(data: bytes, start: int, length: int) -> bytes:
    return data[start : start + length]


async def check(root: Path, stored: int) -> None:
    """All that was said to be stored is there; all rows lead to their bytes; and packs are whole."""
    wanted = [medium.sha256 for number in range(stored) for medium in batch(number)]
    async with media_store(root) as (_, packed):
        places = await asyncio.to_thread(packed.find, wanted)
        assert set(places) == set(wanted)
        for path in packs(root):
            data = path.read_bytes()
            entries = {entry.sha256.hex(): entry for entry in read_entries(len(data), partial(_slice, data))}
            for digest, entry in entries.items():
                assert hashlib.sha256(_slice(data, entry.offset, entry.size_bytes)).hexdigest() == digest
            # A place in a pack that has no such medium would be lost.
            found = await asyncio.to_thread(packed.find, entries)
            for digest, place in found.items():
                if root / place.key == path:
                    assert (place.offset, place.size_bytes) == (entries[digest].offset, entries[digest].size_bytes)
        assert all((root / place.key).is_file() for place in places.values())


def packs(root: Path) -> list[Path]:
    """The packs, without what a put that was killed left behind: its name begins with a dot."""
    return [path for path in (root / PREFIX).rglob("*") if path.is_file() and not path.name.startswith(".")]


@pytest.mark.chaos
async def test_a_writer_of_packs_that_is_killed_loses_nothing_that_it_stored(tmp_path: Path) -> None:
    moments, stored = random.Random(13), 0
    for _ in range(KILLS):
        stored = max(
            stored, await asyncio.to_thread(write_and_kill, tmp_path, max(0, stored - 3), moments.uniform(0, 0.08))
        )
        await check(tmp_path, stored)
    async with media_store(tmp_path) as (store, packed):
        for number in range(stored + 1):  # the batch of the last kill again: the pack that it left has the same name
            await asyncio.to_thread(store.put_valid, batch(number))
        wanted = {medium.sha256 for number in range(stored + 1) for medium in batch(number)}
        used = {tmp_path / place.key for place in packed.find(wanted).values()}
    assert used == set(packs(tmp_path))
