"""Small media of a table are validated many at a time, and each still stands for itself."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from omnialign.client import AsyncClient
from omnialign.media import write_image
from services.data import media_store
from services.data.importing import tables
from services.data.importing.tables import read_table
from services.data.media_validation import MediaLimits
from services.sandbox.pool import Sandbox

RATINGS = {"response_1": "one", "response_2": "two", "overall_response": 1}


def picture(seed: int, side: int = 16) -> bytes:
    return write_image(np.random.default_rng(seed).integers(0, 255, (side, side, 3), dtype=np.uint8))


def write(folder: Path, pictures: Sequence[bytes]) -> Path:
    """A table of rows with one picture each."""
    target = folder / "rows.parquet"
    rows = [{"question": f"What is {i}?", "image": {"bytes": data}} | RATINGS for i, data in enumerate(pictures)]
    pq.write_table(pa.Table.from_pylist(rows), target)
    return target


async def run(client: AsyncClient, source: Path) -> Any:
    async for progress in client.import_dataset("pictures", source.as_uri(), subtask="ti2t"):
        done = progress
    return done


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the functions that children are asked to run."""
    names: list[str] = []
    call = Sandbox.call

    def noted(self: Sandbox, function: Any, *args: Any, **options: Any) -> Any:
        names.append(function.__name__)
        return call(self, function, *args, **options)

    monkeypatch.setattr(Sandbox, "call", noted)
    return names


async def test_a_call_validates_many_and_only_what_is_refused_is_asked_for_again(
    client: AsyncClient, tmp_path: Path, calls: list[str]
) -> None:
    good, broken = [picture(seed) for seed in range(20)], picture(99)[:200]
    done = await run(client, write(tmp_path, [*good, broken]))
    assert done.records_imported == 20
    assert list(done.quarantine_reasons) == ["MEDIA_TRUNCATED"]
    assert (calls.count("validate_together"), calls.count("validate")) == (1, 1)


async def test_media_that_are_stored_already_are_not_decoded_again(
    client: AsyncClient, tmp_path: Path, calls: list[str]
) -> None:
    source = write(tmp_path, [picture(seed) for seed in range(3)])
    await run(client, source)
    calls.clear()
    await run(client, source)
    assert "validate_together" not in calls


def end_process(media: Sequence[tuple[NDArray[np.uint8], int]], limits: MediaLimits) -> list[str]:
    """What a decoder does to its process that a hostile picture has taken down."""
    os._exit(9)


async def test_a_medium_that_ends_the_process_takes_no_other_along(
    client: AsyncClient, tmp_path: Path, calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(media_store, "validate_together", end_process)
    done = await run(client, write(tmp_path, [picture(seed) for seed in range(5)]))
    assert done.records_imported == 5
    assert (calls.count("end_process"), calls.count("validate")) == (1, 5)


async def test_large_media_go_one_by_one(client: AsyncClient, tmp_path: Path, calls: list[str]) -> None:
    large = picture(1, side=400)
    assert len(large) > media_store.SMALL_BYTES
    done = await run(client, write(tmp_path, [large]))
    assert done.records_imported == 1
    assert (calls.count("validate_together"), calls.count("validate")) == (0, 1)


def test_a_page_of_many_values_does_not_shrink_batches_to_single_rows(tmp_path: Path) -> None:
    noise = [np.random.default_rng(seed).bytes(300_000) for seed in range(40)]
    pq.write_table(pa.table({"image": noise}), tmp_path / "media.parquet")
    sizes = [len(list(batch.rows())) for batch in read_table(tmp_path / "media.parquet")]
    assert sum(sizes) == 40
    assert min(sizes[:-1]) >= 20
    assert max(sizes) * 12_000_000 <= tables.WORST_BATCH_BYTES
