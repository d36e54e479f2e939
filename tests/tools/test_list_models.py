"""The table of model families says what tests left behind and nothing else."""

import json

from tools.list_models import HEAD, PAGE, ROOT, results, table


def leave(folder, family, engine, *, reads=(), writes=(), passed=True):
    seen = {"family": family, "engine": engine, "reads": reads, "writes": writes, "passed": passed}
    (folder / f"{family}.{engine}.json").write_text(json.dumps(seen))


def test_a_mark_stands_where_a_test_held_and_nowhere_else(tmp_path):
    leave(tmp_path, "b", "trainer", reads=["video"])
    leave(tmp_path, "b", "transformers", reads=["image", "video"], writes=["audio"])
    leave(tmp_path, "a", "vllm", reads=["image"], passed=False)
    assert table(results(tmp_path)).splitlines()[2:] == [
        "| b | transformers engine | ✓ | - | ✓ | - | ✓ | - |",
        "| b | trainer | - | - | ✓ | - | - | - |",
    ]


def test_the_page_says_what_its_sources_say():
    page = PAGE.read_text()
    assert page.startswith(HEAD)
    assert page.endswith((ROOT / "tools" / "models-notes.md").read_text())
