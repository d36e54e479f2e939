"""The table of methods says what tests left behind and nothing else."""

import json

from tools.list_methods import HEAD, PAGE, main, results, table
from training.methods import METHODS


def leave(folder, method, family, *, reads=(), writes=()):
    seen = {"method": method, "family": family, "reads": reads, "writes": writes}
    (folder / f"{method}.{family}.json").write_text(json.dumps(seen))


def test_a_mark_stands_where_a_test_held_and_nowhere_else(tmp_path):
    leave(tmp_path, "sft", "b", reads=["image", "video"], writes=["audio"])
    leave(tmp_path, "dpo", "b", reads=["image", "video"], writes=["audio"])
    leave(tmp_path, "sft", "a")
    leave(tmp_path, "sdpo", "b", reads=["image"])
    lines = table(results(tmp_path)).splitlines()[2:]
    marks = [{name for name, mark in zip(METHODS, line.split(" | ")[3:], strict=True) if "✓" in mark} for line in lines]
    assert [line.split(" | ")[:3] for line in lines] == [
        ["| a", "-", "-"],
        ["| b", "image", "-"],
        ["| b", "image, video", "audio"],
    ]
    assert marks == [{"sft"}, {"sdpo"}, {"sft", "dpo"}]


def test_without_results_the_page_stays_and_the_mend_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("tools.list_methods.RESULTS", tmp_path)
    before = PAGE.read_text()
    assert main() == 1
    assert "run `make test` first" in capsys.readouterr().err
    assert PAGE.read_text() == before


def test_the_page_begins_as_its_source_does():
    assert PAGE.read_text().startswith(HEAD)
