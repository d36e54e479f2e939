"""The small file that says how files are to be read, and options that win over it."""

import json

import pytest

from omnialign.cli.mapping import read_mapping, renamed_columns
from omnialign.errors import InvalidArgument


@pytest.mark.parametrize(
    ("found", "text"),
    [
        ({"fromat": "trl"}, "fromat is not known, format is"),
        ({"colour": "trl"}, "colour is not known: format, subtask"),
        ({"format": 3}, "format is 3, and text is taken"),
        ({"map": {"prompt": 3}}, "map is {'prompt': 3}, and a mapping of columns is taken"),
        ({"map": ["prompt"]}, "a mapping of columns is taken"),
        ({"ignore": "notes"}, "ignore is 'notes', and a list of columns is taken"),
        ({"score_range": [1, "5"]}, "two numbers is taken"),
        ({"score_range": [1]}, "two numbers is taken"),
        ({"winner_labels": [0.5, 1]}, "two whole numbers is taken"),
        ({"winner_labels": [True, False]}, "two whole numbers is taken"),
        ({"answer_labels": [1]}, "two labels, that of a good answer first, is taken"),
        ({"answer_labels": [1, [0]]}, "two labels"),
        ({"answer_labels": "1 0"}, "two labels"),
        ({"references": True}, "references is True"),
        ({"split": None}, "split is None"),
    ],
)
def test_what_is_misspelt_is_said(tmp_path, found, text):
    path = tmp_path / "mapping.json"
    path.write_text(json.dumps(found))
    with pytest.raises(InvalidArgument) as refused:
        read_mapping(path)
    assert refused.value.reason == "MAPPING_INVALID"
    assert text in refused.value.message


@pytest.mark.parametrize(("written", "labels"), [("[1, 0]", ["1", "0"]), ("[true, false]", ["true", "false"]),
                                                 ("[good, bad]", ["good", "bad"])])  # fmt: skip
def test_labels_of_answers_are_texts_however_the_file_writes_them(tmp_path, written, labels):
    (tmp_path / "mapping.yaml").write_text(f"answer_labels: {written}\n")
    assert read_mapping(tmp_path / "mapping.yaml") == {"answer_labels": labels}


def test_options_win_over_the_file():
    found = renamed_columns({"prompt": "ask", "chosen": "good"}, ["prompt=query"], ["bad=rejected"])
    assert found == {"query": "prompt", "good": "chosen", "bad": "rejected"}
    assert read_mapping(None) == {}


def test_a_file_is_read_as_its_mapping_says_and_what_is_set_aside_is_mended(run, tmp_path):
    (tmp_path / "data").mkdir()
    rows = [{"ask": "a", "good": "b", "bad": "c"}, {"ask": "d", "good": "e", "notes": 7}]
    (tmp_path / "data" / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    mapping = tmp_path / "mapping.yaml"
    mapping.write_text("format: trl\nmap: {prompt: query, chosen: good, rejected: bad}\nignore: [notes]\n")
    done = run("data", "import", "mapped", tmp_path / "data", "--mapping", mapping, "--map", "prompt=ask")
    assert done.exit_code == 0, done.output
    assert "format: trl in rows.jsonl, told by the request" in done.stdout
    assert "RESPONSE_MISSING: 1" in done.stdout
    target = tmp_path / "mend"
    assert run("data", "quarantine", "mapped", "--export", target).exit_code == 0
    path = target / "format-trl" / "rows.jsonl"
    row = json.loads(path.read_text())
    path.write_text(json.dumps(row | {"bad": "f"}))
    done = run("data", "import", "mapped", target, "--append", "--mapping", mapping, "--map", "prompt=ask")
    assert "2 records (t2t 2)" in done.stdout, done.output
    assert "No rows" in run("data", "quarantine", "mapped").stdout


def test_formats_of_many_files_are_a_line_each(run, tmp_path):
    for number in range(3):
        row = {"prompt": f"{number}?", "chosen": "yes", "rejected": "no"}
        (tmp_path / f"rows-{number}.jsonl").write_text(json.dumps(row) + "\n")
    done = run("data", "import", "many", str(tmp_path))
    lines = [line for line in done.stdout.splitlines() if line.startswith("format: ")]
    assert lines == ["format: trl in 3 files, told by the columns chosen and rejected"]
