"""`omnialign data quarantine`: rows that were set aside, by reason, and as files to mend."""

import json

import pytest


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "source" / "text-to-text"
    folder.mkdir(parents=True)
    rows = [{"question": "whole"}, {"question": ""}, {"question": "one side", "response_1": "yes", "extra": 1}]
    (folder / "train.json").write_text(json.dumps(rows))
    return folder.parent


def test_rows_are_listed_with_their_places_and_by_reason(run, source):
    done = run("data", "import", "aside", source)
    assert done.exit_code == 0, done.output
    assert "not read: column extra, 1 row of text-to-text/train.json" in done.stdout
    lines = run("data", "quarantine", "aside").stdout.splitlines()
    assert sorted(line.split()[0] for line in lines) == ["PROMPT_MISSING", "RESPONSE_MISSING"]
    (line,) = run("data", "quarantine", "aside", "--reason", "RESPONSE_MISSING").stdout.splitlines()
    assert "text-to-text/train.json, row 3: the row has response 1 and no response 2." in line


def test_exported_rows_are_mended_and_imported_in_their_places(run, source, tmp_path):
    run("data", "import", "mended", source)
    target = tmp_path / "mend"
    result = run("data", "quarantine", "mended", "--reason", "RESPONSE_MISSING", "--export", target)
    assert result.exit_code == 0, result.output
    path = target / "text-to-text.jsonl"
    row = json.loads(path.read_text())
    assert (row["question"], row["response_1"], row["_quarantine"]["row"]) == ("one side", "yes", 3)
    path.write_text(json.dumps(row | {"response_2": "no", "overall_response": 1}))
    done = run("data", "import", "mended", target, "--append")
    assert "2 records (t2t 2)" in done.stdout, done.output
    assert "RESPONSE_MISSING" not in run("data", "quarantine", "mended").stdout


def test_another_scale_can_be_declared(run, tmp_path):
    row = {"question": "q", "response_1": "a", "response_2": "b", "overall_response": 0, "clarity_rate_1": 10}
    (tmp_path / "text-to-text.jsonl").write_text(json.dumps(row))
    refused = run("data", "import", "scaled", tmp_path)
    assert refused.exit_code == 1
    assert "[SCORES_UNEXPECTED]" in refused.stderr
    options = ("--score-range", "0", "10", "--winner-labels", "0", "1")
    done = run("data", "import", "scaled", tmp_path, *options)
    assert done.exit_code == 0, done.output
    shown = run("data", "show", "scaled").stdout
    assert "clarity 3" in shown
    assert "preferred   1" in shown


def test_rows_of_a_benchmark_are_exported_under_its_name_and_mended(run, tmp_path):
    folder = tmp_path / "EvalAnything-InstructionFollowing" / "audio_instruct"
    folder.mkdir(parents=True)
    asked = {"prompt_id": 4, "prompt": "rain", "question": "What falls?", "choice": "A. rain B. snow"}
    rows = [asked | {"question_id": 1, "answer": "A"}, asked | {"question_id": 2, "answer": "both"}]
    (folder / "test.json").write_text(json.dumps([*rows, asked | {"prompt_id": 5, "question_id": 3, "answer": "B"}]))
    done = run("data", "import", "bench", folder.parent)
    assert "quarantined: 1 row\n  ANSWER_INVALID: 1" in done.stdout
    target = tmp_path / "mend"
    run("data", "quarantine", "bench", "--export", target)
    path = target / "benchmark-instruction_following" / "text-to-audio.jsonl"
    path.write_text(path.read_text().replace('"both"', '"B"'))
    done = run("data", "import", "bench", target, "--append")
    assert "imported: 1 of 1 row" in done.stdout
    assert "No rows are set aside." in run("data", "quarantine", "bench").stdout
