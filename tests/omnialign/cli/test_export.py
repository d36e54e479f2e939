"""Import, export and import again, in each format that `omnialign data export` writes: the same records."""

import hashlib
import json
import sys

import datasets
import numpy as np
import pytest
import webdataset

from omnialign.client import Client, downloads
from omnialign.errors import Aborted, FailedPrecondition
from omnialign.exporting.parquet import ParquetFiles
from omnialign.media import write_audio, write_image, write_video

PAIRS = ("trl", "datasets", "ms-swift", "llama-factory")
COLUMNS = (*PAIRS, "messages", "sharegpt")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Rows of ms-swift with media of all kinds: pairs, single answers, and a picture as an answer."""
    folder = tmp_path_factory.mktemp("source")
    for seed in (1, 2):
        picture = np.random.default_rng(seed).integers(0, 255, (8, 8, 3), dtype=np.uint8)
        (folder / f"{seed}.png").write_bytes(write_image(picture))
    (folder / "a.wav").write_bytes(write_audio(np.random.default_rng(1).random(400, dtype=np.float32) - 0.5, 8000))
    (folder / "b.mp4").write_bytes(write_video(np.zeros((4, 16, 16, 3), dtype=np.uint8), 4))
    rows = [
        talk("<image> and <image>, <audio>, <video>: سلام 👋?", "They differ.", "No.",
             images=["1.png", "2.png"], audios=["a.wav"], videos=["b.mp4"]),
        talk("Name a fruit.", "Pear.", "No.", split="val"),
        talk("Draw one.", "Here: <image>", "So: <image>", images=["2.png", "1.png"]),
        talk("Look: <image>", "I see.", images=["1.png"]),
        talk("Name another.", "Plum.", labels={"kind": "fruit"}, label=False),
    ]  # fmt: skip
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def talk(asked, answer, rejected=None, **more):
    messages = [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
    return {"messages": messages, "rejected_response": rejected, **more}


def records(server, dataset):
    """The records of a dataset without their ids, in an order of their own."""
    with Client(server.address) as client:
        found = list(client.stream_records(f"projects/default/datasets/{dataset}"))
    for record in found:
        record.id = "-"
    return sorted(record.SerializeToString(deterministic=True) for record in found)


@pytest.mark.parametrize("columns", ["", *COLUMNS])
def test_what_is_imported_exported_and_imported_again_is_the_same(run, server, source, tmp_path, columns):
    data = tmp_path / "data"
    data.mkdir()
    for path in source.iterdir():
        (data / path.name).write_bytes(path.read_bytes())
    if columns not in ("", *PAIRS):
        rows = [json.loads(line) for line in (data / "rows.jsonl").read_text().splitlines()]
        singles = [row for row in rows if not row.pop("rejected_response")]
        (data / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in singles))
    name = columns or "whole"
    first = run("data", "import", f"{name}-once", data)
    assert "quarantined: 0 rows" in first.stdout, first.output
    out = tmp_path / "out"
    options = ("--format", columns) if columns else ()
    done = run("data", "export", f"{name}-once", out, *options)
    assert done.exit_code == 0 and "left out" not in done.output, done.output
    again = run("data", "import", f"{name}-again", out)
    assert "quarantined: 0 rows" in again.stdout and "not read" not in again.stdout, again.output
    found = records(server, f"{name}-again")
    assert found == records(server, f"{name}-once")
    assert len(found) == (5 if columns in ("", *PAIRS) else 2)
    told = {"": "records", "datasets": "trl"}.get(columns, columns.replace("-", "_"))
    formats = {line.split()[1] for line in again.stdout.splitlines() if line.startswith("format: ")}
    assert formats <= {told, "messages", "sharegpt", "llama_factory", "ms_swift"} and formats


RATED = {"honesty": {"Rating": "2", "Rationale": "so"}}
PAIR = {"response_1": "1", "response_2": "2"}
SOURCES = {
    "ultrafeedback": [
        {"instruction": "Name a fruit.", "completions": [
            {"model": "a", "response": "Pear.", "critique": "Name two.", "annotations": RATED},
            {"model": "b", "response": "No."}]},
        {"prompt": "What?", "image": "1.png", "completions": [{"model": "a", "response": "It.", "annotations": RATED}]},
    ],
    "helpsteer": [{"prompt": "Name one.", "response": "Pear.", "helpfulness": 4, "coherence": 1}],
    "helpsteer3": [
        {"domain": "code", "context": [{"role": "user", "content": "Name one."}], "response1": "Pear.",
         "response2": "No.", "overall_preference": -1,
         "individual_preference": [{"reasoning": "1 does.", "feedback1": "Right.", "feedback2": "Wrong."}]},
        {"context": [{"role": "user", "content": "Two?"}], "response1": "No.", "response2": "2",
         "overall_preference": 1},
    ],
    "argilla": [{"prompt": f"Say {k}.", **PAIR, "preference.responses": [f"response_{k}"]} for k in (1, 2)],
    "rlaif-v": [{"question": "What is it?", "image": "1.png", "chosen": "Red.", "rejected": "No."},
                {"question": "Is <image> as <image>?", "images": ["1.png", "2.png"], "chosen": "a", "rejected": "b"}],
}  # fmt: skip
"""Rows as other tools have them, whose preferences and ratings their own form has a place for."""


@pytest.mark.parametrize("columns", SOURCES)
def test_rows_of_a_format_come_back_from_an_export_in_it(run, server, source, tmp_path, columns):
    data, rated = tmp_path / "data", ("--score-range", "1", "5") if columns in ("ultrafeedback", "helpsteer") else ()
    data.mkdir()
    for name in ("1.png", "2.png"):
        (data / name).write_bytes((source / name).read_bytes())
    (data / "rows.jsonl").write_text("\n".join(map(json.dumps, SOURCES[columns])))
    first = run("data", "import", f"{columns}-once", data, *rated)
    assert "quarantined: 0 rows" in first.stdout, first.output
    done = run("data", "export", f"{columns}-once", tmp_path / "out", "--format", columns)
    assert "left out" not in done.output and "not written" not in done.output, done.output
    own_scale = ("--score-range", "0", "3") if rated else ()
    again = run("data", "import", f"{columns}-again", tmp_path / "out", *own_scale)
    assert "quarantined: 0 rows" in again.stdout and "not read" not in again.stdout, again.output
    assert f"format: {columns.replace('-', '_')} in" in again.stdout
    found = records(server, f"{columns}-again")
    assert found == records(server, f"{columns}-once") and len(found) == len(SOURCES[columns])


def test_shards_of_webdataset_hold_whole_records_and_are_the_same_each_time(run, server, source, tmp_path):
    run("data", "import", "web", source)
    for out in ("one", "two"):
        done = run("data", "export", "web", tmp_path / out, "--columns", "webdataset")  # as it was named before
        assert done.exit_code == 0 and "5 rows, 4 media files" in done.stdout, done.output
    names = [path.name for path in sorted((tmp_path / "one").iterdir())]
    assert names == ["train.tar", "val.tar"]
    assert [(tmp_path / "one" / name).read_bytes() for name in names] == [
        (tmp_path / "two" / name).read_bytes() for name in names
    ]
    samples = [one for name in names for one in webdataset.WebDataset(str(tmp_path / "one" / name), shardshuffle=False)]
    assert [len(one["__key__"]) for one in samples] == [9] * 5
    for one in samples:
        files = json.loads(one["json"]).get("media_files", {})
        for sha256, name in files.items():
            key, _, kind = name.partition(".")
            assert key == one["__key__"] and hashlib.sha256(one[kind]).hexdigest() == sha256
    again = run("data", "import", "web-again", tmp_path / "one")
    assert "quarantined: 0 rows" in again.stdout and "not read" not in again.stdout, again.output
    assert records(server, "web-again") == records(server, "web")


def test_the_service_writes_what_is_asked_for_and_a_call_that_broke_goes_on(run, server, source, tmp_path, monkeypatch):
    run("data", "import", "large", source)
    head = run("data", "export", "large", tmp_path / "x", "--resume")
    assert head.exit_code == 2 and "large/3" in head.output
    asked = ("data", "export", "large/-", tmp_path / "out", "--format", "ms-swift", "--resume")
    finish = downloads._IncomingFile.finish
    left = iter([True])

    def broken(self, *args):
        found = finish(self, *args)
        if found.path == "val.jsonl" and next(left, None):
            raise Aborted("The cable was pulled.", reason="PULLED")
        return found

    monkeypatch.setattr(downloads._IncomingFile, "finish", broken)
    assert "PULLED" in run(*asked).stderr and not (tmp_path / "out").exists()
    assert "5 rows, 4 media files" in run(*asked).stdout
    here = run("data", "export", "large/1", tmp_path / "here", "--format", "ms-swift")
    assert "5 rows, 4 media files" in here.stdout
    assert tree(tmp_path / "out") == tree(tmp_path / "here")
    assert "FOLDER_NOT_EMPTY" in run(*asked).stderr


def tree(folder):
    """The files below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_parquet_has_the_features_of_datasets(run, source, tmp_path):
    run("data", "import", "typed", source)
    run("data", "export", "typed", tmp_path / "out", "--format", "datasets")
    found = datasets.Dataset.from_parquet(str(tmp_path / "out" / "train.parquet"), cache_dir=str(tmp_path / "cache"))
    assert found.features["images"] == datasets.List(datasets.Image())
    assert found.features["audios"] == datasets.List(datasets.Audio())
    assert found.features["videos"] == datasets.List(datasets.Video())
    (row,) = (row for row in found.remove_columns(["audios", "videos"]) if len(row["images"] or []) == 2 and
              row["prompt"][0]["content"][0]["type"] == "image")  # fmt: skip
    assert [image.size for image in row["images"]] == [(8, 8), (8, 8)]
    assert [part["type"] for part in row["prompt"][0]["content"]].count("image") == 2


def test_what_has_no_place_is_said(run, tmp_path):
    row = {"question": "q", "response_1": "a", "response_2": "b", "clarity_rate_1": 3, "res_1_from": "model"}
    rows = [row | {"overall_response": 2, "overall_textfeedback": "so"}, row, {"question": "alone"}]
    (tmp_path / "text-to-text.jsonl").write_text("\n".join(map(json.dumps, rows)))
    imported = run("data", "import", "rich", tmp_path / "text-to-text.jsonl")
    assert imported.exit_code == 0, imported.output
    done = run("data", "export", "rich", tmp_path / "out", "--format", "trl")
    lines = done.stdout.splitlines()
    assert "1 row, 0 media files" in lines[0]
    assert "left out 1: nobody said which of its two responses is better" in lines
    assert "left out 1: it has no answer, and a row of trl has one" in lines
    assert any(line.startswith("not written: feedback of 1 record") for line in lines)
    assert any(line.startswith("not written: sources of responses of 1 record") for line in lines)
    assert json.loads((tmp_path / "out" / "train.jsonl").read_text())["chosen"] == "b"
    wrong = run("data", "export", "rich", tmp_path / "other", "--format", "csv")
    assert wrong.exit_code == 2


def test_without_pyarrow_the_mend_is_said_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(FailedPrecondition, match="pip install pyarrow") as missing:
        ParquetFiles(tmp_path)
    assert missing.value.reason == "PYARROW_MISSING"
    assert list(tmp_path.iterdir()) == []
