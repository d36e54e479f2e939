"""Media for players: ranges, types that we decided, and a sandbox."""

import io
import re
import wave
from datetime import timedelta
from html import unescape

import pytest

from omnialign.content import content
from omnialign.v1 import content_pb2, dataset_pb2, record_pb2
from services.console.media import FILE, headers_of
from services.console.previews import SHOWN
from services.console.ranges import ByteRange, Unsatisfiable, wanted_range
from services.console.security import UNTRUSTED_POLICY
from tests.services.console.hostile import SCRIPT, fill
from tests.services.console.test_jobs import assert_harmless


def sound(seconds: float = 1.0) -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(bytes(range(256)) * round(62.5 * seconds))
    return buffer.getvalue()


async def stored(console, data=None):
    """A sound in the data service, and where the console has it."""
    medium = await console.client.upload_media(data or sound(), modality=content_pb2.MODALITY_AUDIO)
    return medium, f"/projects/demo/media/{medium.sha256}"


async def test_a_medium_comes_whole_with_our_type_and_in_a_sandbox(console, browser):
    data = sound(80)  # several chunks
    medium, path = await stored(console, data)
    answer = await browser.get(path)
    assert (answer.status_code, answer.content) == (200, data)
    assert answer.headers["content-type"] == "audio/wav"
    assert answer.headers["content-length"] == str(len(data))
    assert answer.headers["content-security-policy"] == UNTRUSTED_POLICY
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-disposition"] == f'inline; filename="{medium.sha256[:16]}.wav"'
    assert answer.headers["accept-ranges"] == "bytes"


@pytest.mark.parametrize(
    ("asked", "start", "end"),
    [("bytes=0-0", 0, 1), ("bytes=10-19", 10, 20), ("bytes=-5", -5, None), ("bytes=300000-", 300_000, None)],
)
async def test_a_player_gets_the_part_that_it_asks_for(console, browser, asked, start, end):
    data = sound(40)
    _, path = await stored(console, data)
    answer = await browser.get(path, range=asked)
    assert (answer.status_code, answer.content) == (206, data[start:end])
    first = start % len(data)
    assert answer.headers["content-range"] == f"bytes {first}-{first + len(answer.content) - 1}/{len(data)}"


async def test_a_part_behind_the_end_is_not_satisfiable(console, browser):
    medium, path = await stored(console)
    for asked in (f"bytes={medium.size_bytes}-", "bytes=999999999999999999-", "bytes=-0"):
        answer = await browser.get(path, range=asked)
        assert (answer.status_code, answer.content) == (416, b"")
        assert answer.headers["content-range"] == f"bytes */{medium.size_bytes}"


@pytest.mark.parametrize(
    "asked",
    [
        "bytes=0-1,5-6," + ",".join(f"{n}-{n}" for n in range(500)),
        "bytes=5-2",
        "bytes=-",
        "lines=1-2",
        "bytes=1-2-3",
        "bytes=" + "9" * 5000 + "-",
        "bytes=²-³",
    ],
)
async def test_a_range_that_serves_no_player_is_ignored(console, browser, asked):
    _, path = await stored(console)
    answer = await browser.http.get(path, headers={b"range": asked.encode()})
    assert (answer.status_code, answer.content) == (200, sound())


async def test_a_part_of_another_version_is_the_whole(console, browser):
    medium, path = await stored(console)
    fresh = await browser.get(path, range="bytes=0-3", if_range=f'"{medium.sha256}"')
    stale = await browser.get(path, range="bytes=0-3", if_range='"other"')
    assert (fresh.status_code, stale.status_code) == (206, 200)
    assert (await browser.get(path, if_none_match=f'"{medium.sha256}"')).status_code == 304
    assert (await browser.http.head(path)).headers["content-length"] == str(medium.size_bytes)


async def test_media_are_those_of_the_signed_in_person(console, browser):
    medium, path = await stored(console)
    assert (await browser.get(path.replace("demo", "other"))).status_code == 404
    assert (await (await console.browser()).get(path)).status_code == 303
    other = await console.browser()
    await other.sign_in("bob-token", project="other")
    assert (await other.get(path)).status_code == 404
    for digest in ("0" * 64, medium.sha256[:-1], medium.sha256.upper(), "../../../etc/passwd", "%2e%2e"):
        assert (await browser.get(f"/projects/demo/media/{digest}")).status_code == 404


def test_types_that_no_list_of_ours_names_are_files():
    for kind in ("image/svg+xml", "text/html", "application/xhtml+xml", "image/png\r\nset-cookie: x", ""):
        headers = headers_of(content_pb2.Media(mime_type=kind, sha256="a" * 64), is_file=False)
        assert headers["content-type"] == FILE
        assert headers["content-disposition"].startswith("attachment; ")
    assert not any("svg" in kind or "html" in kind for kind in SHOWN)


def test_ranges_are_read_as_the_standard_says():
    assert wanted_range("bytes=2-", size=5) == ByteRange(2, 5)
    assert wanted_range("Bytes=-9", size=5) == ByteRange(0, 5)
    assert wanted_range("bytes=0-99", size=5) == ByteRange(0, 5)
    assert wanted_range("", size=5) is None
    with pytest.raises(Unsatisfiable):
        wanted_range("bytes=0-", size=0)


async def test_a_sound_is_drawn(console, browser):
    _, path = await stored(console)
    drawn = await browser.get(f"{path}/waveform")
    assert "<svg" in drawn.text and "<path" in drawn.text


async def dataset(console):
    made = await console.client.create_dataset("pictures", display_name=SCRIPT, labels={"owner": SCRIPT})
    medium, path = await stored(console)
    records = []
    for number in range(25):
        record = record_pb2.Record(id=f"r{number:02d}", subtask="a2t", split="test" if number == 7 else "train")
        record.prompt.CopyFrom(content("What sounds here?"))
        record.prompt.parts.add(media=medium)
        response = record.responses.add(content=content(f"A tone, {number}."), source="people")
        response.feedback.critique = "Too short."
        response.feedback.scores.add(dimension="prompt_following", score=2, rationale="It is right.")
        records.append(record)
    await console.client.append_records(made.name, records)
    return await console.client.commit_version(made.name), path


async def test_records_are_browsed_with_players_by_split_and_id(console, browser):
    version, path = await dataset(console)
    listed = (await browser.get("/projects/demo/datasets")).text
    assert "/projects/demo/datasets/pictures" in listed
    assert f"/{version.name}" in (await browser.get("/projects/demo/datasets/pictures")).text
    page = (await browser.get(f"/{version.name}")).text
    assert page.count("<article") == 10
    assert f'<audio controls preload="none"><source src="{path}"><source src="{path}/preview"></audio>' in page
    pages = [page]
    while following := re.search(r'<a rel="next" href="([^"]+)"', pages[-1]):
        pages.append((await browser.get(unescape(following[1]))).text)
    assert [text.count("<article") for text in pages] == [10, 10, 5]
    assert "r24" in pages[-1] and 'rel="first"' in pages[-1] and 'rel="first"' not in page
    assert (await browser.get(f"/{version.name}?start=r20")).text.count("<article") == 5
    for wanted, number in (
        ("text=a+TONE%2C+7.&modality=audio", 1),
        ("dimension=prompt+following&min_score=2", 10),
        ("min_score=3", 0),
        ("modality=video", 0),
    ):
        assert (await browser.get(f"/{version.name}?{wanted}")).text.count("<article") == number, wanted
    assert (await browser.get(f"/{version.name}?token=made-up")).status_code == 400
    held_out = (await browser.get(f"/{version.name}?split=test")).text
    assert held_out.count("<article") == 1 and "r07" in held_out
    assert (await browser.get(f"/{version.name}?id=r03")).text.count("<article") == 1
    assert (await browser.get("/projects/demo/datasets/pictures/records?subtask=t2i")).text.count("<article") == 0
    assert (await browser.get("/projects/demo/datasets/absent")).status_code == 404
    assert (await browser.get("/projects/other/datasets/pictures")).status_code == 404


async def test_a_dataset_says_until_when_it_is_kept_and_who_uses_it(console, browser):
    version, _ = await dataset(console)
    name = "projects/demo/datasets/pictures"
    for page in ("/projects/demo/datasets", f"/{name}"):
        assert "/projects/demo/alignmentJobs/" not in (await browser.get(page)).text
    wanted = dataset_pb2.Dataset(name=name)
    wanted.ttl.FromTimedelta(timedelta(days=30))
    kept_until = (await console.client.update_dataset(wanted, ["ttl"])).expire_time.ToDatetime()
    for number in range(5):
        user = f"projects/demo/alignmentJobs/job-{number}"
        await console.client.begin_use(user, [version.name], ttl_seconds=600)
    listed = (await browser.get("/projects/demo/datasets")).text
    assert f">{kept_until:%Y-%m-%d %H:%M}</time>" in listed
    assert '<a href="/projects/demo/alignmentJobs/job-0">job-0</a>' in listed and "and 2 more" in listed
    page = (await browser.get(f"/{name}")).text
    assert "<dt>Expires</dt><dd>" in page and f">{kept_until:%Y-%m-%d %H:%M}</time> UTC" in page
    assert page.count('<a href="/projects/demo/alignmentJobs/job-') == 5


async def test_nothing_that_a_dataset_holds_runs_on_its_pages(console, browser):
    version, _ = await dataset(console)
    record = record_pb2.Record(id=SCRIPT[:200], subtask=SCRIPT[:32], split=SCRIPT[:32], labels={SCRIPT: SCRIPT})
    for side in (record.prompt, record.responses.add().content, record.responses.add().content):
        side.parts.add(text=SCRIPT)
    fill(record.responses[0].feedback, keep=frozenset({"marks"}))  # places, not texts
    record.responses[0].feedback.scores[0].score = 1
    record.responses[0].source = SCRIPT
    record.preference.preferred, record.preference.reason = 2, SCRIPT
    await console.client.append_records("projects/demo/datasets/pictures", [record])
    await console.client.commit_version("projects/demo/datasets/pictures")
    shown = await browser.http.get("/projects/demo/datasets/pictures/records", params={"id": record.id})
    assert "alert(1)" in shown.text
    for path in ("/projects/demo/datasets", "/projects/demo/datasets/pictures", f"/{version.name}"):
        assert_harmless((await browser.get(path)).text)
    assert_harmless(shown.text)
    for name in ("subtask", "split", "modality", "text", "dimension", "min_score", "start", "id", "token", "reason"):
        for path in ("records", "quarantine"):
            found = await browser.http.get(f"/projects/demo/datasets/pictures/{path}", params={name: SCRIPT})
            assert_harmless(found.text)


async def test_what_was_set_aside_is_shown_by_reason(console, browser, tmp_path):
    import json

    source = tmp_path / "text-to-text.jsonl"
    good = {"question": "Why?", "response_1": "a", "response_2": "b", "overall_response": 1}
    rows = [{**good, "question": f"Why {n}?"} for n in range(9)] + [{**good, "question": SCRIPT, "response_1": ""}]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    async for _ in console.client.import_dataset("brought", source.as_uri()):
        pass
    page = await browser.get("/projects/demo/datasets/brought/quarantine")
    assert page.text.count("<article") == 1
    assert_harmless(page.text)


async def test_models_are_listed_with_their_lineage_both_ways(console, browser, tmp_path):
    import json

    import numpy as np
    from safetensors.numpy import save_file

    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    save_file({"weight": np.zeros((4, 4), dtype=np.float32)}, folder / "model.safetensors")
    made = await console.client.register_model(
        "base", folder.as_uri(), display_name=SCRIPT, labels={"by": SCRIPT}, sources=["projects/demo/datasets/pictures"]
    )
    edge = {"source": made.name, "target": "projects/demo/alignmentJobs/first", "relation": "<script>alert(1)</script>"}
    from omnialign.v1 import data_service_pb2

    await console.client.add_lineage([data_service_pb2.LineageEdge(**edge)])
    assert "/projects/demo/models/base" in (await browser.get("/projects/demo/models")).text
    page = await browser.get(f"/{made.name}")
    assert "datasets/pictures" in page.text and "alignmentJobs/first" in page.text
    for path in ("/projects/demo/models", "/projects/demo/models/base", f"/{made.name}"):
        assert_harmless((await browser.get(path)).text)
    lineage = await browser.http.get("/projects/demo/lineage", params={"name": "projects/demo/datasets/pictures"})
    assert "base" in lineage.text
    assert_harmless(lineage.text)
    assert (await browser.http.get("/projects/demo/lineage", params={"name": "projects/other/x/y"})).status_code == 404
    assert (await browser.get("/projects/demo/models/absent")).status_code == 404
