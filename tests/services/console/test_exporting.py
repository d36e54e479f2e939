"""Downloads of a dataset's version: what the command line writes, whole or not at all."""

import io
import json
import zipfile
from pathlib import Path

import pytest

from omnialign.content import content
from omnialign.exporting import FORMS
from omnialign.v1.record_pb2 import Record, Response
from services.console import exporting
from services.console.config import ConsoleConfig
from tests.services.console.conftest import Browser, Running, running
from tests.services.console.test_uploading import picture, send, table

VERSION = "/projects/demo/datasets/asked/versions/1"
ROW = {"question": "What?", "image": "a.png", "response_1": "A cat", "response_2": "A dog", "overall_response": 2}
FILES = [("text-image-to-text.jsonl", table(ROW)), ("a.png", picture(1))]

NO_PLACE = ("messages", "sharegpt", "helpsteer")
"""Columns that have no place for a pair."""
WITHIN = ("datasets", "webdataset")
"""Files that have the media within."""


def opened(data: bytes) -> dict[str, bytes]:
    """The files of a zip."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.testzip() is None
        return {name: archive.read(name) for name in archive.namelist()}


def left_in(folder: Path) -> list[Path]:
    """What exports have left there."""
    return list(folder.glob("omnialign-export-*"))


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary files lie."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


@pytest.mark.parametrize("columns", FORMS)
async def test_each_kind_of_columns_comes_as_a_zip_with_its_media(
    console: Running, browser: Browser, scratch: Path, columns: str
):
    await send(browser, FILES)
    page = await browser.http.get(VERSION)
    assert f'action="{VERSION}/export"' in page.text and f'value="{columns}"' in page.text
    answer = await browser.http.get(f"{VERSION}/export", params={"columns": columns})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/zip"
    assert answer.headers["content-disposition"] == f'attachment; filename="asked-1-{columns}.zip"'
    files = opened(answer.content)
    if columns in NO_PLACE:
        assert list(files) == [exporting.NOT_WRITTEN]
        assert json.loads(files[exporting.NOT_WRITTEN])["left_out"]
    elif columns not in WITHIN:
        assert {data for name, data in files.items() if name.endswith(".png")} == {picture(1)}
        assert any(name.endswith(".jsonl") for name in files)
    assert left_in(scratch) == []


async def test_what_the_columns_have_no_place_for_is_named_in_the_zip(console: Running, browser: Browser):
    await send(browser, FILES)
    client, dataset = console.client, VERSION.strip("/").partition("/versions")[0]
    odd = Record(id="odd", subtask="t2t", prompt=content("a"), responses=[Response(content=content(x)) for x in "abc"])
    await client.append_records(dataset, [odd])
    version = await client.commit_version(dataset)
    answer = await browser.http.get(f"/{version.name}/export")
    files = opened(answer.content)
    assert json.loads(files[exporting.NOT_WRITTEN])["left_out"] == {"a row has two responses, and the record 3": 1}
    assert len(files["text-image-to-text.jsonl"].splitlines()) == 1


async def test_what_cannot_be_exported_is_said_before_a_file_begins(tmp_path: Path, scratch: Path):
    async with running(tmp_path, tokens=True, max_export_bytes=400) as console:
        browser = await console.browser()
        await browser.sign_in()
        await send(browser, FILES)
        large = await browser.http.get(f"{VERSION}/export")
        assert large.status_code == 429 and "EXPORT_TOO_LARGE" in large.text and "data export asked/1" in large.text
        unknown = await browser.http.get(f"{VERSION}/export", params={"columns": "<script>"})
        assert unknown.status_code == 400 and "COLUMNS_UNKNOWN" in unknown.text and "<script>" not in unknown.text
        for place in (VERSION.replace("/1", "/7"), VERSION.replace("demo", "other")):
            assert (await browser.http.get(f"{place}/export")).status_code in (403, 404)
    assert left_in(scratch) == []


def test_the_bound_must_be_positive():
    assert dict(ConsoleConfig(gateway_address="a:1", max_export_bytes=0).problems())["max_export_bytes"]
