"""Writes docs/training.md from the results of the methods' tests: `python -m tools.list_methods`.

A test that passed leaves `out/methods/<method>.<family>.json`; each mark of the table is such a file, never an opinion.
"""

import json
import sys
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from training.methods import METHODS

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "out" / "methods"
PAGE = ROOT / "docs" / "training.md"

HEAD = """# Training methods by family and modality

Written by `make generate-models` after `make test`; do not edit. A mark says that a test took a step of the method on a
tiny model of the family, with the family's real processor or codec, and that loss and gradient equalled the method's
formula in plain torch, computed row by row without padding or packing. Text and the modalities that are named stood in
the prompts and in the answers of that step. The tiny world is the demo's model, trained; the others are random.

`-` means not tried. `make test-families` takes every method through every ZeRO stage on two ranks with unlike media,
with full weights and LoRAs and with offload, on one family (`tests/training/test_zero_matrix.py`), and tests restarts
and served models for fewer pairs of method and family. What each method is for, its formula and its settings:
[supervised and preference methods](preference-methods.md), [reward models](reward-models.md),
[self-distillation](self-distillation.md), [reinforcement learning](reinforcement-learning.md), [LoRA](lora.md).
"""

Key = tuple[str, str, str]
"""A family, and the modalities in prompts and in answers."""


def results(folder: Path) -> Mapping[Key, set[str]]:
    """The methods that held, by family and modalities."""
    found: dict[Key, set[str]] = defaultdict(set)
    for path in sorted(folder.glob("*.json")):
        seen = json.loads(path.read_text(encoding="utf-8"))
        found[seen["family"], ", ".join(seen["reads"]), ", ".join(seen["writes"])].add(seen["method"])
    return found


def table(found: Mapping[Key, set[str]]) -> str:
    """The table, a line for each family and what it read and wrote."""
    lines = [f"| family | in prompts | in answers | {' | '.join(METHODS)} |", f"|---|---|---|{'---|' * len(METHODS)}"]
    for (family, reads, writes), methods in sorted(found.items()):
        marks = ["✓" if method in methods else "-" for method in METHODS]
        lines.append(f"| {family} | {reads or '-'} | {writes or '-'} | {' | '.join(marks)} |")
    return "\n".join(lines)


def main() -> int:
    """Writes the page; returns 1 if there are no results."""
    found = results(RESULTS)
    if not found:
        print(f"{RESULTS} holds no results: run `make test` first.", file=sys.stderr)
        return 1
    PAGE.write_text(f"{HEAD}\n{table(found)}\n", encoding="utf-8")
    print(f"{PAGE}: {len(found)} lines.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
