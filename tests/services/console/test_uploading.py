"""Uploads of files in the browser to a real data service: the same import as the command line's, what is refused."""

import asyncio
import contextlib
import json
import tracemalloc
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest

from omnialign.cli import quarantine
from omnialign.content import text_of
from omnialign.errors import NotFound
from omnialign.media import write_image
from services.console import multipart, uploading
from tests.services.console.conftest import Browser, Running, running
from tests.services.console.hostile import SCRIPT
from tests.services.console.test_security import assert_clean

PLACE = "/projects/demo/new-dataset"
GOOD = {"question": "How many?", "response_1": "1", "response_2": "2", "overall_response": 1}
BAD = {"question": "How many?", "response_1": None, "response_2": "2", "overall_response": 1}
Files = list[tuple[str, bytes]]


def table(*rows: dict[str, Any]) -> bytes:
    return "".join(f"{json.dumps(row)}\n" for row in rows).encode()


def picture(seed: int) -> bytes:
    return write_image(np.random.default_rng(seed).integers(0, 255, (8, 8, 3), dtype=np.uint8))


async def send(browser: Browser, files: Files, secret: str | None = None, **fields: str) -> httpx2.Response:
    """What a browser sends: the fields of the form, then the files."""
    secret = await browser.secret(PLACE) if secret is None else secret
    data = {"csrf": secret, "dataset": "asked", **fields}
    return await browser.http.post(
        PLACE, data=data, files=[("files", (name, content, "application/octet-stream")) for name, content in files]
    )


async def test_a_table_with_its_media_becomes_a_version_and_the_page_leads_to_it(console: Running, browser: Browser):
    row = {"prompt": "A cat", "image_1": "a.png", "image_2": "pictures/b.png", "overall_image": 2}
    files = [
        ("cats/text-to-image.jsonl", table(row, {**row, "image_2": "gone.png"})),
        ("cats/a.png", picture(1)),
        ("cats/pictures/b.png", picture(2)),
        ("cats/notes.txt", b"by hand"),
    ]
    done = await send(browser, files)
    assert done.status_code == 200, done.text
    assert "Imported 1 of 2 rows," in done.text
    assert 'href="/projects/demo/datasets/asked/versions/1"' in done.text
    assert 'href="/projects/demo/datasets/asked/quarantine"' in done.text
    assert "MEDIA_MISSING" in done.text and "notes.txt" in done.text
    assert_clean(done.text)
    assert (await browser.get("/projects/demo/datasets/asked/versions/1")).text.count("<img") == 2
    assert "gone.png" in (await browser.get("/projects/demo/datasets/asked/quarantine")).text


async def test_it_is_the_import_of_the_command_line_to_the_word(console: Running, browser: Browser, tmp_path: Path):
    content = table(GOOD, BAD, {"question": 5}) + b'{"question": \n'
    (tmp_path / "text-to-text.jsonl").write_bytes(content)
    uri = await console.client.upload_files(tmp_path / "text-to-text.jsonl", keep_name=True)
    events = [event async for event in console.client.import_dataset("by-program", uri)]
    done = await send(browser, [("text-to-text.jsonl", content)])
    assert f"Imported {events[-1].records_imported} of {events[-1].rows_read} rows," in done.text
    rows = {}
    for name in ("by-program", "asked"):
        stream = console.client.stream_quarantine(f"projects/demo/datasets/{name}")
        rows[name] = [quarantine.row_text(row) async for row in stream]
    assert rows["asked"] == rows["by-program"] and len(rows["asked"]) == 3
    records = [row async for row in console.client.stream_records("projects/demo/datasets/asked/versions/1")]
    assert [text_of(record.prompt) for record in records] == ["How many?"]


async def test_what_the_form_says_reaches_the_import(console: Running, browser: Browser):
    row = {"ask": "How many?", "response_1": "1", "response_2": "2", "overall_response": 0, "note": "x"}
    options = {
        "subtask": "t2t",
        "split": "test",
        "first": "0",
        "second": "1",
        "rename": "ask=question",
        "ignore": "note",
    }
    done = await send(browser, [("mine.jsonl", table(row))], **options)
    assert "Imported 1 of 1 row," in done.text, done.text
    (record,) = [found async for found in console.client.stream_records("projects/demo/datasets/asked")]
    assert (record.split, record.preference.preferred) == ("test", 1)
    assert uploading.read_options({"dataset": "asked", "good": "1", "bad": "0"})["answer_labels"] == ("1", "0")


async def test_an_import_that_is_refused_can_be_mended_without_sending_the_files_again(
    console: Running, browser: Browser
):
    refused = await send(browser, [("mine.jsonl", table(GOOD))], split="val")
    assert "SUBTASK_UNKNOWN" in refused.text and "There is no version" not in refused.text
    with pytest.raises(NotFound):
        await console.client.get_dataset("projects/demo/datasets/asked")
    arrived = refused.text.split('name="arrived" value="')[1].split('"')[0]
    assert 'value="val"' in refused.text
    secret = await browser.secret(PLACE)
    fields = {"csrf": secret, "dataset": "asked", "subtask": "t2t", "split": "val", "arrived": arrived}
    again = await browser.http.post(PLACE, files=[(name, (None, value)) for name, value in fields.items()])
    assert "Imported 1 of 1 row," in again.text


async def test_rows_of_which_none_can_be_imported_are_told_with_their_faults(console: Running, browser: Browser):
    refused = await send(browser, [("text-to-text.jsonl", table(BAD))])
    assert "NO_VALID_ROWS" in refused.text and "text-to-text.jsonl, row 1" in refused.text, refused.text
    assert 'id="version"' not in refused.text


async def test_an_archive_is_not_unpacked(console: Running, browser: Browser):
    refused = await send(browser, [("text-to-text.zip", b"PK\x03\x04" + bytes(1000))])
    assert "SOURCE_EMPTY" in refused.text and "text-to-text.zip is none of" in refused.text


@pytest.mark.parametrize(
    "name", ["../evil.jsonl", "/etc/evil.jsonl", "a/../../b.jsonl", "a\\b.jsonl", "a//b.jsonl", "."]
)
async def test_names_that_lead_elsewhere_are_refused(console: Running, browser: Browser, name: str):
    refused = await send(browser, [("text-to-text.jsonl", table(GOOD)), (name, b"x")])
    assert (refused.status_code, "UPLOAD_PATH_INVALID" in refused.text) == (400, True)
    with pytest.raises(NotFound):
        await console.client.get_dataset("projects/demo/datasets/asked")


async def test_hostile_text_in_names_and_fields_is_text(console: Running, browser: Browser):
    done = await send(browser, [("text-to-text.jsonl", table({**GOOD, SCRIPT: 1})), ("<b>x.txt", b"x")])
    assert_clean(done.text)
    assert "<b>x.txt" not in done.text and "&lt;b&gt;x.txt" in done.text and SCRIPT not in done.text
    for field in ("dataset", "subtask", "split", "rename", "lowest", "references", "format", "ignore"):
        refused = await send(browser, [("text-to-text.jsonl", table(GOOD))], **{field: SCRIPT})
        assert SCRIPT not in refused.text
        assert_clean(refused.text)


async def test_fields_that_cannot_be_are_named_and_kept(console: Running, browser: Browser):
    given = {"dataset": "Big One", "rename": "theirs", "lowest": "1", "second": "x", "good": "1", "references": "-1"}
    refused = await send(browser, [("text-to-text.jsonl", table(GOOD))], **given)
    assert refused.status_code == 400
    assert all(
        f"<code>{name}</code>" in refused.text
        for name in ("dataset", "rename", "lowest", "first", "good", "references")
    )
    assert 'value="Big One"' in refused.text
    assert (await send(browser, [])).status_code == 400  # no file at all
    assert (await send(browser, [], arrived="../../x")).status_code == 400


async def test_files_without_the_secret_are_refused_before_they_are_stored(console: Running, browser: Browser):
    for secret, reason in (("", "CSRF_MISSING"), ("x" * 32, "CSRF_WRONG")):
        refused = await send(browser, [("text-to-text.jsonl", table(GOOD))], secret=secret)
        assert (refused.status_code, reason in refused.text) == (403, True)
    late = await browser.http.post(
        PLACE,
        files=[
            ("files", ("a.jsonl", b"x")),
            ("csrf", (None, await browser.secret(PLACE))),
            ("dataset", (None, "asked")),
        ],
    )
    assert (late.status_code, "CSRF_MISSING" in late.text) == (403, True)
    elsewhere = await browser.http.post(PLACE, files=[("a", ("a", b"x"))], headers={"origin": "https://evil.example"})
    assert elsewhere.status_code == 403


async def test_who_may_not_write_uploads_nothing(console: Running):
    assert (await (await console.browser()).get(PLACE)).status_code == 303
    reader = await console.browser()
    await reader.sign_in("ann-token")
    refused = await send(reader, [("text-to-text.jsonl", table(GOOD))])
    assert (refused.status_code, "ROLE_TOO_SMALL" in refused.text) == (403, True)
    stranger = await console.browser()
    await stranger.sign_in("bob-token", project="other")
    assert (await send(stranger, [("text-to-text.jsonl", table(GOOD))])).status_code == 404


async def test_more_than_the_limit_is_refused(tmp_path: Path):
    async with running(tmp_path, tokens=True, max_upload_bytes=1000) as console:
        browser = await console.browser()
        await browser.sign_in()
        assert "Up to 1,000 bytes" in (await browser.get(PLACE)).text
        refused = await send(browser, [("a.jsonl", bytes(uploading.FORM_BYTES + 2000))])
        assert refused.status_code == 413


def form(secret: str, *, boundary: bytes = b"xyz", rest: bytes = b"") -> bytes:
    """The beginning of a form, up to the first bytes of its file."""
    parts = [b'name="csrf"\r\n\r\n' + secret.encode(), b'name="dataset"\r\n\r\nasked']
    parts.append(b'name="files"; filename="text-to-text.jsonl"\r\n\r\n' + table(GOOD))
    return (
        b"".join(b"--" + boundary + b"\r\nContent-Disposition: form-data; " + part + b"\r\n" for part in parts) + rest
    )


HEADERS = {"content-type": "multipart/form-data; boundary=xyz"}


async def test_an_upload_that_breaks_off_leaves_nothing(console: Running, browser: Browser, monkeypatch):
    secret, begun = await browser.secret(PLACE), asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield form(secret)
        begun.set()
        await asyncio.sleep(60)

    sending = asyncio.create_task(browser.http.post(PLACE, content=body(), headers=HEADERS))
    await begun.wait()
    sending.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await sending
    whole = await browser.http.post(PLACE, content=form(secret), headers=HEADERS)  # without its end
    assert (whole.status_code, "it breaks off" in whole.text) == (400, True)
    with pytest.raises(NotFound):
        await console.client.get_dataset("projects/demo/datasets/asked")
    monkeypatch.setattr(multipart, "IDLE_SECONDS", 0.1)
    reader, writer = await asyncio.open_connection("127.0.0.1", browser.http.base_url.port)
    cookie = "; ".join(f"{name}={value}" for name, value in browser.http.cookies.items())
    lines = [f"POST {PLACE} HTTP/1.1", "host: 127.0.0.1", f"cookie: {cookie}", "content-length: 9999"]
    lines += [f"{name}: {value}" for name, value in HEADERS.items()]
    writer.write("\r\n".join([*lines, "", ""]).encode() + form(secret))
    await asyncio.wait_for(reader.readuntil(b"UPLOAD_IDLE"), 10)
    writer.close()
    with pytest.raises(NotFound):
        await console.client.get_dataset("projects/demo/datasets/asked")
    done = await browser.http.post(PLACE, content=form(secret, rest=b"--xyz--\r\n"), headers=HEADERS)
    assert "Imported 1 of 1 row," in done.text  # its place is free again


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("application/x-www-form-urlencoded", b"csrf=x"),
        ("multipart/form-data", b"--x\r\n"),
        ("multipart/form-data; boundary=x", b"nothing of the kind"),
        ("multipart/form-data; boundary=x", b"--x\r\nA: " + b"b" * 100_000 + b"\r\n\r\n"),
        (
            "multipart/form-data; boundary=x",
            b'--x\r\nContent-Disposition: form-data; name="\xff"\r\n\r\n1\r\n--x--\r\n',
        ),
        ("multipart/form-data; boundary=x", b"--x\r\n\r\n1\r\n--x--\r\n"),
        (
            "multipart/form-data; boundary=x",
            b"".join(b'--x\r\nContent-Disposition: form-data; name="%d"\r\n\r\n1\r\n' % n for n in range(99))
            + b"--x--",
        ),
    ],
)
async def test_what_is_no_form_with_files_is_refused(console: Running, browser: Browser, kind: str, content: bytes):
    secret = await browser.secret(PLACE)
    answer = await browser.http.post(PLACE, content=content, headers={"content-type": kind, "x-csrf-token": secret})
    assert answer.status_code == 400, answer.text


async def test_only_so_many_upload_at_a_time(tmp_path: Path):
    async with running(tmp_path, tokens=True, max_uploads=1) as console:
        browser = await console.browser()
        await browser.sign_in()
        secret, begun, ended = await browser.secret(PLACE), asyncio.Event(), asyncio.Event()

        async def body() -> AsyncIterator[bytes]:
            yield form(secret)
            begun.set()
            await ended.wait()
            yield b"--xyz--\r\n"

        first = asyncio.create_task(browser.http.post(PLACE, content=body(), headers=HEADERS))
        await begun.wait()
        async with asyncio.timeout(10):
            while (second := await send(browser, [("text-to-text.jsonl", table(GOOD))], secret)).status_code != 429:
                pass  # the server has not read the first one yet
        assert "UPLOADS_BUSY" in second.text
        ended.set()
        assert "Imported 1 of 1 row," in (await first).text


async def test_a_file_is_on_the_disk_and_not_in_memory(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    file = uploading._Spooled(multipart.Part("files", "a.bin"))
    tracemalloc.start()
    try:
        for _ in range(64):
            file.write(bytes(2**20))
        entry, *_ = [piece if not isinstance(piece, bytes) else len(piece) async for piece in file.pieces()]
        assert tracemalloc.get_traced_memory()[1] < 16 * 2**20
    finally:
        tracemalloc.stop()
        file.close()
    assert (entry.path, entry.size_bytes) == ("a.bin", 64 * 2**20)
    assert not [*tmp_path.iterdir()]  # noqa: ASYNC240  # under no name, so a kill leaves nothing
