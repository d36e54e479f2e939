import itertools
import json

import numpy as np
import pytest

from omnialign.media import write_image

SHADES = itertools.count(1)


@pytest.fixture
def folder(tmp_path):
    """Pictures that the service does not have, which all tests share."""
    (tmp_path / "in" / "below").mkdir(parents=True)
    for name in ("one.png", "below/two.png"):
        (tmp_path / "in" / name).write_bytes(write_image(np.full((8, 8, 3), next(SHADES), dtype=np.uint8)))
    return tmp_path / "in"


def test_an_upload_prints_what_it_stored(run, folder):
    result = run("media", "upload", folder, "--json")
    assert result.exit_code == 0, result.output
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert {line["path"] for line in lines} == {"one.png", "below/two.png"}
    assert {line["mime_type"] for line in lines} == {"image/png"}


def test_an_upload_that_was_ended_goes_on_with_the_files_that_it_has_not_noted(run, folder, tmp_path):
    out = tmp_path / "uploaded.jsonl"
    assert "2 media stored, 0 already" in run("media", "upload", folder, "--out", out).stdout
    first, second = out.read_text().splitlines()
    out.write_text(f"{first}\n{second[:20]}")  # as if it had been killed while it wrote
    assert "0 media stored, 2 already" in run("media", "upload", folder, "--out", out).stdout
    assert sorted(out.read_text().splitlines()) == sorted([first, second])
    (folder / "one.png").write_bytes(write_image(np.full((8, 8, 3), next(SHADES), dtype=np.uint8)))
    assert "1 media stored, 1 already" in run("media", "upload", folder, "--out", out).stdout


def test_an_upload_that_was_ended_does_not_send_again_what_is_stored(run, folder):
    (folder / "one.png").rename(folder.parent / "one.png")
    assert "1 media stored, 0 already" in run("media", "upload", folder).stdout
    (folder.parent / "one.png").rename(folder / "one.png")
    assert "1 media stored, 1 already" in run("media", "upload", folder).stdout
    assert "0 media stored, 2 already" in run("media", "upload", folder).stdout


def test_files_that_are_refused_are_named_with_why_and_what_converts_them(run, folder):
    (folder / "drawing.svg").write_text("<svg/>")
    result = run("media", "upload", folder)
    assert result.exit_code == 1
    assert "2 media stored, 0 already, 1 refused as MEDIA_TYPE_UNSUPPORTED" in result.stdout
    assert "drawing.svg: " in result.stderr
    assert "rsvg-convert" in result.stderr


def test_a_source_that_is_not_there_is_named(run, tmp_path):
    result = run("media", "upload", tmp_path / "nothing")
    assert result.exit_code == 1
    assert "nothing to upload" in result.stderr
