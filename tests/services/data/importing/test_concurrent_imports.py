"""Imports into one dataset at the same time."""

import asyncio
import json
from pathlib import Path

import pytest

from omnialign.client import AsyncClient
from omnialign.errors import FailedPrecondition
from omnialign.v1.data_service_pb2 import ImportDatasetRequest
from services.data.importing.importer import Importer

GOOD = {"question": "How many?", "response_1": "1", "response_2": "2", "overall_response": 1}


def source(folder: Path, row: dict[str, object]) -> str:
    folder.mkdir()
    (folder / "rows.json").write_text(json.dumps([row]))
    return folder.as_uri()


async def run(client: AsyncClient, uri: str) -> int:
    async for progress in client.import_dataset("shared", uri, subtask="t2t", winner_labels=(1, 2)):
        imported = progress.records_imported
    return imported


async def test_an_import_that_fails_takes_no_dataset_from_another_that_goes_on(
    client: AsyncClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The failing one creates the dataset, and ends when the good one has found it and has written nothing yet."""
    created, joined, failed = asyncio.Event(), asyncio.Event(), asyncio.Event()
    ensure = Importer._ensure

    async def in_turn(self: Importer, request: ImportDatasetRequest) -> bool:
        if request.source_uri.endswith("good"):
            await created.wait()
            made = await ensure(self, request)
            joined.set()
            await failed.wait()
            return made
        made = await ensure(self, request)
        created.set()
        await joined.wait()
        return made

    monkeypatch.setattr(Importer, "_ensure", in_turn)
    going_on = asyncio.create_task(run(client, source(tmp_path / "good", GOOD)))
    with pytest.raises(FailedPrecondition, match="None of 1 rows"):
        await run(client, source(tmp_path / "bad", GOOD | {"overall_response": 3}))
    failed.set()
    assert await going_on == 1
    assert [dataset.record_count async for dataset in client.list_datasets()] == [1]
