"""Uploads whose service and client are killed at random moments end as undisturbed ones, and leave no litter.

`OMNIALIGN_CHAOS_SEED` chooses the moments.
"""

import asyncio
import contextlib
import hashlib
import io
import json
import os
import random
import sqlite3
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from omnialign.client import AsyncClient
from omnialign.content import content
from omnialign.folders import file_digest, list_files
from omnialign.v1 import record_pb2
from services.data.packs import read_entries
from tests.chaos.stack_process import StackProcess
from tests.chaos.test_kill_import import litter
from tests.processes import REPOSITORY

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(1800)]

SEED = int(os.environ.get("OMNIALIGN_CHAOS_SEED", "17"))
KILLED = ("service", "service", "client", "client", "service")
"""Who is killed in turn while a lot is uploaded."""
LOTS = int(os.environ.get("OMNIALIGN_CHAOS_KILLS", "20")) // len(KILLED)
UPLOAD_MEDIA = ("-m", "omnialign.cli.main", "media", "upload", "{folder}", "--json", "--address", "{address}")
UPLOAD_FILES = """
import asyncio, json, sys
from omnialign.client import AsyncClient

def show(done, total):
    print(json.dumps({"done": done, "total": total}), flush=True)

async def upload():
    async with AsyncClient(sys.argv[2]) as client:
        print(json.dumps({"upload": await client.upload_files(sys.argv[1], keep_name=True, progress=show)}))

asyncio.run(upload())
"""
SOON = {"sweep_seconds": "0.2", "upload_seconds": "0.2", "garbage_grace_seconds": "0.5", "unnamed_media_seconds": "0.2"}


def picture(seed: int, side: int, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)).save(buffer, kind)
    return buffer.getvalue()


def media_lot(folder: Path, lot: int) -> Path:
    """Media that are packed, ones that are objects beside their types, ones too large for a message."""
    folder.mkdir(parents=True)
    for number in range(400):
        (folder / f"small-{number:03}.png").write_bytes(picture(lot * 1000 + number, side=24))
    for number in range(40):
        (folder / f"single-{number:02}.bmp").write_bytes(picture(lot * 1000 + number, side=300, kind="BMP"))
    for number in range(2):
        (folder / f"large-{number}.png").write_bytes(picture(lot * 1000 + number, side=700))
    return folder


def import_lot(folder: Path, lot: int) -> Path:
    """A table with pictures beside it, for an import."""
    target = folder / "text-image-to-text"
    target.mkdir(parents=True)
    rows = []
    for number in range(150):
        (target / f"{number:03}.png").write_bytes(picture(lot * 1000 + number, side=150))
        row = {"question": "?", "image": f"{number:03}.png", "response_1": "a", "response_2": "b"}
        rows.append(json.dumps({**row, "overall_response": 1 + number % 2}))
    (target / "rows.jsonl").write_text("\n".join(rows))
    return target


@dataclass
class Uploader:
    """A process that uploads a folder, and the lines that it prints."""

    process: asyncio.subprocess.Process
    lines: asyncio.Task[list[dict[str, object]]]
    begun: asyncio.Event

    @classmethod
    async def start(cls, command: Sequence[str], folder: Path, address: str) -> "Uploader":
        """Starts it, and returns once it has printed a line or ended."""
        arguments = [part.format(folder=folder, address=address) if "{" in part[:1] else part for part in command]
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
        process = await asyncio.create_subprocess_exec(
            sys.executable, *arguments, stdout=asyncio.subprocess.PIPE, env=environment
        )
        begun = asyncio.Event()
        found = cls(process, asyncio.create_task(_read(process, begun)), begun)
        await begun.wait()
        return found

    async def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        await self.end()

    async def end(self) -> list[dict[str, object]]:
        """What it printed."""
        found = await self.lines
        await self.process.wait()
        return found


async def _read(process: asyncio.subprocess.Process, begun: asyncio.Event) -> list[dict[str, object]]:
    assert process.stdout is not None
    lines = list[dict[str, object]]()
    async for line in process.stdout:
        with contextlib.suppress(json.JSONDecodeError):  # the line that it was writing when it was killed
            lines.append(json.loads(line))
        begun.set()
    begun.set()
    return lines


async def upload(
    stack: StackProcess, command: Sequence[str], folder: Path, *, seconds: float, draw: random.Random
) -> list[dict[str, object]]:
    """Uploads a folder through all kills; returns what the last process printed, which ended well."""
    uploader = await Uploader.start(command, folder, stack.address)
    for killed in KILLED:
        await asyncio.sleep(draw.uniform(0, seconds / 2))
        if killed == "service":
            stack.kill()
            await stack.start()
        else:
            await uploader.kill()
            uploader = await Uploader.start(command, folder, stack.address)
    lines = await uploader.end()
    assert uploader.process.returncode == 0
    return lines


async def abandon(stack: StackProcess, command: Sequence[str], folder: Path, *, seconds: float) -> None:
    """Kills both ends of an upload, which nobody takes up again."""
    uploader = await Uploader.start(command, folder, stack.address)
    await asyncio.sleep(seconds)
    stack.kill()
    await uploader.kill()
    await stack.start()


async def timed_calm_upload(
    stack: StackProcess, command: Sequence[str], folder: Path
) -> tuple[float, list[dict[str, object]]]:
    uploader = await Uploader.start(command, folder, stack.address)
    started = asyncio.get_running_loop().time()
    lines = await uploader.end()
    assert uploader.process.returncode == 0
    return asyncio.get_running_loop().time() - started, lines


@asynccontextmanager
async def running(root: Path) -> AsyncIterator[StackProcess]:
    stack = StackProcess.of_data(root)
    await stack.start()
    try:
        yield stack
    finally:
        stack.kill()


async def restart(stack: StackProcess, **settings: str) -> None:
    stack.kill()
    stack.settings = {**stack.settings, **{f"DATA_{name.upper()}": value for name, value in settings.items()}}
    await stack.start()


def digests_of(lines: Sequence[dict[str, object]]) -> dict[object, object]:
    return {line["path"]: line.get("sha256") for line in lines if "path" in line}


def digests_in(folder: Path) -> dict[str, str]:
    return {path.name: file_digest(path) for path in list_files(folder)}


async def test_media_arrive_once_whoever_is_killed_and_what_nobody_names_goes(tmp_path: Path) -> None:
    draw, root = random.Random(SEED), tmp_path / "stack" / "data"
    lots = [media_lot(tmp_path / f"lot-{lot}", lot) for lot in range(LOTS + 1)]
    async with running(tmp_path / "stack") as stack:
        seconds, calm = await timed_calm_upload(stack, UPLOAD_MEDIA, lots[0])
        assert digests_of(calm) == digests_in(lots[0])
        for lot in lots[1:]:
            lines = await upload(stack, UPLOAD_MEDIA, lot, seconds=seconds, draw=draw)
            assert digests_of(lines) == digests_in(lot)
        kept = await name_media(stack, lots[1])
        await restart(stack, **SOON)
        async with AsyncClient(stack.address) as client:
            paths = [path for lot in lots for path in list_files(lot)]
            assert all([one.existed async for one in client.upload_media_files(paths)])  # whole, and kept no longer
        abandoned = media_lot(tmp_path / "abandoned", LOTS + 1)
        await abandon(stack, UPLOAD_MEDIA, abandoned, seconds=draw.uniform(0, seconds / 2))
        await settled(stack, root, kept)


async def name_media(stack: StackProcess, folder: Path) -> set[str]:
    """Makes a dataset that names the media of a lot; returns their digests."""
    async with AsyncClient(stack.address) as client:
        media = [one.media async for one in client.upload_media_files(list_files(folder)) if one.media]
        dataset = await client.create_dataset("named")
        records = [record_pb2.Record(id=medium.sha256, prompt=content("x", medium)) for medium in media]
        await client.append_records(dataset.name, records)
    return {medium.sha256 for medium in media}


async def settled(stack: StackProcess, root: Path, kept: set[str]) -> None:
    """Collects until nothing but the media that a dataset names is left, or the time for it is over."""
    async with AsyncClient(stack.address) as client, asyncio.timeout(60):
        while left_beside(root, kept):
            await asyncio.sleep(0.5)  # the grace period, after which what was condemned goes
            [done async for done in client.collect_garbage()]
    assert stored(root) == kept


def stored(root: Path) -> set[str]:
    """The digests of all media that are objects or have a place in a pack."""
    found = {path.parent.name + path.name for path in (root / "media" / "sha256").rglob("*") if path.is_file()}
    for path in (root / "media" / "packs").rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            found |= {entry.sha256.hex() for entry in read_entries(len(data), partial(_slice, data))}
    return found


def _slice(data: bytes, start: int, length: int) -> bytes:
    return data[start : start + length]


def left_beside(root: Path, kept: set[str]) -> set[str]:
    """What is left of media that nobody names: their bytes, types, files on their way, and what they count for."""
    types = {path.parent.name + path.name for path in (root / "media" / "types").rglob("*") if path.is_file()}
    with closing(sqlite3.connect(root / "data.db")) as database:
        held = database.execute("SELECT holder || key FROM held_objects WHERE holder NOT LIKE '%/named'").fetchall()
        packed = {digest.hex() for (digest,) in database.execute("SELECT sha256 FROM packed_media")}
    return (stored(root) | types | packed) - kept | {str(path) for path in litter(root)} | {row[0] for row in held}


async def test_a_folder_for_an_import_arrives_once_whoever_is_killed_and_goes_when_its_time_is_over(
    tmp_path: Path,
) -> None:
    draw, root = random.Random(SEED), tmp_path / "stack" / "data"
    command = ("-c", UPLOAD_FILES, "{folder}", "{address}")
    lots = [import_lot(tmp_path / f"lot-{lot}", lot) for lot in range(LOTS + 1)]
    resumed = 0
    async with running(tmp_path / "stack") as stack:
        seconds, calm = await timed_calm_upload(stack, command, lots[0])
        expected = await imported(stack, "calm", lots[0], str(calm[-1]["upload"]))
        for number, lot in enumerate(lots[1:]):
            lines = await upload(stack, command, lot, seconds=seconds, draw=draw)
            resumed += len(lines) < len(calm)
            found = await imported(stack, f"lot-{number}", lot, str(lines[-1]["upload"]))
            assert found == expected
        assert resumed, "no process went on where one that was killed had been"
        await restart(stack, sweep_seconds="0.2", upload_seconds="0.2")
        await abandon(
            stack, command, import_lot(tmp_path / "abandoned", LOTS + 1), seconds=draw.uniform(0, seconds / 2)
        )
        async with asyncio.timeout(60):
            while uploads_left(root):  # noqa: ASYNC110  # files say nothing when they go
                await asyncio.sleep(0.1)


async def imported(stack: StackProcess, name: str, folder: Path, source: str) -> tuple[int, int, bool]:
    """How many records and rows set aside an import of an upload has, and whether its media are those of the folder."""
    async with AsyncClient(stack.address) as client:
        done = [done async for done in client.import_dataset(name, source, winner_labels=(1, 2))][-1]
        records = [record async for record in client.stream_records(f"projects/default/datasets/{name}")]
        named = {part.media.sha256 for record in records for part in record.prompt.parts if part.media.sha256}
        pictures = {digest for path, digest in digests_in(folder).items() if path.endswith(".png")}
        for digest in named:
            assert hashlib.sha256(await client.get_media(digest)).hexdigest() == digest
    return done.records_imported, done.rows_quarantined, named == pictures


def uploads_left(root: Path) -> list[object]:
    """Objects of uploads, files on their way, folders of imports, and what uploads count for."""
    with closing(sqlite3.connect(root / "data.db")) as database:
        held = database.execute("SELECT holder FROM held_objects WHERE holder LIKE '%/uploads/%'").fetchall()
    return [*(path for path in (root / "uploads").rglob("*") if path.is_file()), *litter(root), *held]
