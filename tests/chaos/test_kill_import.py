"""An import whose service is killed at random moments ends as one that was left in peace, and leaves no litter."""

import asyncio
import contextlib
import hashlib
import io
import json
import os
import random
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from omnialign.client import AsyncClient
from omnialign.v1.data_service_pb2 import ImportDatasetResponse as Progress
from tests.chaos.stack_process import StackProcess

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(1800)]

KILLS = int(os.environ.get("OMNIALIGN_CHAOS_KILLS", "20"))
KILLS_PER_IMPORT = 4
ROWS, BROKEN, GROUP = 2400, 7, 100
COMMAND = ("-m", "tests.chaos.data_stack", "{root}", "{port}")


def picture(seed: int) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def write_source(folder: Path) -> Path:
    """A table with pictures in its rows and lines that name pictures beside them; some rows of both are broken."""
    target = folder / "text-image-to-text"
    target.mkdir(parents=True)

    def row(index: int, image: object) -> dict[str, object]:
        better = 1 + index % 2 if index % (ROWS // BROKEN) else 9
        return {
            "question": f"What is {index}?", "image": image, "response_1": "a", "response_2": f"b{index % 90}",
            "overall_response": better,
        }  # fmt: skip

    inside = [row(index, {"bytes": picture(index), "path": None}) for index in range(ROWS)]
    pq.write_table(pa.Table.from_pylist(inside), target / "train.parquet", row_group_size=GROUP)
    lines = []
    for index in range(ROWS, ROWS + ROWS // 4):
        (target / f"{index}.png").write_bytes(picture(index))
        lines.append(json.dumps(row(index, f"{index + (index % 200 == 0) * 10**6}.png")))
    (target / "more.jsonl").write_text("\n".join(lines))
    return target


async def run(client: AsyncClient, dataset: str, source: Path) -> Progress:
    async for done in client.import_dataset(dataset, source.as_uri(), winner_labels=(1, 2)):
        last = done
    return last


async def digest(client: AsyncClient, dataset: str) -> str:
    """A digest of all records, of the rows set aside, and of the bytes of all media."""
    name, found, media = f"projects/default/datasets/{dataset}", hashlib.sha256(), set[str]()
    for stream in (client.stream_records(name), client.stream_quarantine(name)):
        async for record in stream:
            found.update(record.SerializeToString(deterministic=True))
            media |= {part.media.sha256 for part in record.prompt.parts if part.media.sha256}
    for sha256 in sorted(media):
        found.update(await client.get_media(sha256))
    return found.hexdigest()


def counts(done: Progress) -> tuple[object, ...]:
    return (
        done.rows_read, done.records_imported, done.rows_quarantined, done.media_bytes,
        dict(done.quarantine_reasons), dict(done.subtask_counts), done.dataset_version.record_count,
    )  # fmt: skip


async def test_a_killed_import_ends_as_an_undisturbed_one(tmp_path: Path) -> None:
    source, draw = write_source(tmp_path / "source"), random.Random(int(os.environ.get("OMNIALIGN_CHAOS_SEED", "13")))
    stack = StackProcess(tmp_path / "stack", COMMAND, look="list_datasets")
    await stack.start()
    try:
        async with AsyncClient(stack.address, project="default") as client:
            await run(client, "first", source)  # the first one starts the children, and takes longer
            started = time.monotonic()
            calm = counts(await run(client, "calm", source))
            seconds, expected = time.monotonic() - started, await digest(client, "calm")
        skipped, killed = 0, 0
        while killed < KILLS:
            dataset = f"killed-{killed // KILLS_PER_IMPORT}"
            async with AsyncClient(stack.address, project="default") as client:
                begun = asyncio.create_task(run(client, dataset, source))
                await asyncio.wait([begun], timeout=draw.uniform(0, 0.8 * seconds))
                stack.kill()
                killed += 1
                begun.cancel()
                with contextlib.suppress(asyncio.CancelledError, Exception):
                    await begun
            await stack.start()
            if killed % KILLS_PER_IMPORT and killed < KILLS:
                continue
            async with AsyncClient(stack.address, project="default") as client:
                done = await run(client, dataset, source)
                skipped += done.rows_skipped
                assert counts(done) == calm
                assert await digest(client, dataset) == expected
        assert skipped > 0
        stack.kill()
        stack.command = (*COMMAND, "0.2")
        await stack.start()
        await swept(tmp_path / "stack" / "data")
    finally:
        stack.kill()


async def swept(root: Path) -> None:
    """Waits until the sweep has removed what the kills left: files and folders that were being written."""
    deadline = time.monotonic() + 30
    while left := litter(root):
        assert time.monotonic() < deadline, left[:5]
        await asyncio.sleep(0.1)


def litter(root: Path) -> list[Path]:
    return [*(root / "media" / "incoming").iterdir(), *root.glob("import-*")]
