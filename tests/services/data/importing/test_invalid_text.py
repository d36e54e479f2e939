"""Halves of surrogate pairs, which JSON can write and no message can hold, in names of columns and of files."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from omnialign.client import AsyncClient
from omnialign.errors import InvalidArgument, from_status, to_status

GOOD = {"question": "How many?", "response_1": "1", "response_2": "2", "overall_response": 1}


async def run(client: AsyncClient, source: Path) -> Any:
    async for progress in client.import_dataset("shared", source.as_uri(), subtask="t2t"):
        done = progress
    return done


@pytest.mark.parametrize("name", ["\ud800", "a\udfff", "\ud83d"])
async def test_a_column_with_half_a_character_in_its_name_is_listed_and_the_rows_imported(
    client: AsyncClient, tmp_path: Path, name: str
) -> None:
    (tmp_path / "rows.json").write_text(json.dumps([GOOD | {name: 3}, GOOD | {"question": "And now?"}]))
    done = await run(client, tmp_path / "rows.json")
    assert done.records_imported == 2
    assert [column.column for column in done.unread_columns] == [name[:-1] + "?"]


async def test_files_whose_names_are_not_utf_8_are_read_or_skipped_by_name(client: AsyncClient, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in (b"rows-\xff.json", b"again-\xff.json"):
        (source / os.fsdecode(name)).write_text(json.dumps([GOOD]))
    (source / os.fsdecode(b"notes-\xff.odt")).write_text("nothing")
    done = await run(client, source)
    assert done.records_imported == 1
    assert {row.earlier_file for row in done.repeated_rows} == {"again-?.json"}
    assert [skipped.file for skipped in done.skipped_files] == ["notes-?.odt"]


def test_errors_carry_what_they_can_of_such_a_text() -> None:
    error = InvalidArgument("no \ud800", reason="R", metadata={"column": "\udfff"}, violations=[("\ud800", "\ud801")])
    found = from_status(to_status(error))
    assert (found.message, found.metadata["column"], found.violations) == ("no ?", "?", (("?", "?"),))
