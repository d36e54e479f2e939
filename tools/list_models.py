"""Writes docs/models.md from the results of the model families' tests: `python -m tools.list_models`.

A test that passed leaves `out/families/<family>.<runner>.json`; each line of the table is such a file, never an
opinion. A runner that left no file for a family has not been tried with it.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "out" / "families"
PAGE = ROOT / "docs" / "models.md"
MODALITIES = ("image", "audio", "video")
RUNNERS = {"transformers": "transformers engine", "vllm": "vLLM engine (processor build)", "trainer": "trainer"}

HEAD = """# Model families

Written by `make generate-models` after `make test` and `make test-vllm`; do not edit. Each family is tested with a tiny
random model of the real architecture class and the family's real processor or codec, saved and loaded as a user would.
A mark says that a test read or wrote that modality through that runner and every assertion held: for engines, that the
greedy answer equals that of the family's own code, or that the expanded prompt equals our adapter's; for the trainer,
that its ids and tensors equal the engine's. All families read and write text.

Only real weights can show the quality of answers, the speed at real sizes, and checkpoints whose files differ from what
the installed library saves: these are **not measured** here. `-` means not tried, or not possible: see the notes below.
"""


@dataclass(frozen=True)
class Result:
    """What one runner did with one family."""

    family: str
    runner: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]


def results(folder: Path) -> list[Result]:
    """The results in a folder, ordered by family and runner."""
    found = []
    for path in sorted(folder.glob("*.json")):
        seen = json.loads(path.read_text(encoding="utf-8"))
        if seen["passed"]:
            reads, writes = (tuple(seen.get(key, ())) for key in ("reads", "writes"))
            found.append(Result(seen["family"], seen["engine"], reads, writes))
    return sorted(found, key=lambda result: (result.family, list(RUNNERS).index(result.runner)))


def table(found: Sequence[Result]) -> str:
    """The table, a line for each family and runner."""
    columns = [f"{verb} {modality}" for verb in ("read", "write") for modality in MODALITIES]
    lines = [f"| family | by | {' | '.join(columns)} |", f"|---|---|{'---|' * len(columns)}"]
    for result in found:
        marks = [_mark(modality in of) for of in (result.reads, result.writes) for modality in MODALITIES]
        lines.append(f"| {result.family} | {RUNNERS[result.runner]} | {' | '.join(marks)} |")
    return "\n".join(lines)


def _mark(held: bool) -> str:
    return "✓" if held else "-"


def main() -> int:
    """Writes the page; returns 1 if there are no results."""
    found = results(RESULTS)
    if not found:
        print(f"{RESULTS} holds no results: run `make test` and `make test-vllm` first.", file=sys.stderr)
        return 1
    notes = (ROOT / "tools" / "models-notes.md").read_text(encoding="utf-8")
    PAGE.write_text(f"{HEAD}\n{table(found)}\n\n{notes}", encoding="utf-8")
    print(f"{PAGE}: {len(found)} lines.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
