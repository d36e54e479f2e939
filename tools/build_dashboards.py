"""Writes the chart's Grafana dashboards from their Python: `python -m tools.build_dashboards`.

With `--check` it writes nothing and fails if a committed file differs from what it would write.
"""

import argparse
import sys
from pathlib import Path

from tools.dashboards import alignment, annotation, console, evaluation, grafana, inference, overview, storage, training

FOLDER = Path(__file__).resolve().parent.parent / "charts" / "omnialign" / "dashboards"
BOARDS = {
    "overview": overview.BOARD,
    "alignment": alignment.BOARD,
    "evaluation": evaluation.BOARD,
    "annotation": annotation.BOARD,
    "console": console.BOARD,
    "training": training.BOARD,
    "inference": inference.BOARD,
    "storage": storage.BOARD,
}


def rendered() -> dict[str, str]:
    """The dashboards as JSON, by file name."""
    return {f"{name}.json": grafana.to_json(board) for name, board in BOARDS.items()}


def main() -> None:
    """Writes the files, or checks them."""
    parser = argparse.ArgumentParser(description="Builds the Grafana dashboards of the chart.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a file is out of date")
    wanted, check = rendered(), parser.parse_args().check
    FOLDER.mkdir(parents=True, exist_ok=True)
    present = {path.name: path.read_text() for path in FOLDER.glob("*.json")}
    if check and present != wanted:
        stale = sorted(name for name in wanted.keys() | present.keys() if wanted.get(name) != present.get(name))
        sys.exit(f"Out of date: {', '.join(stale)}. Run python -m tools.build_dashboards.")
    if not check:
        for name in present.keys() - wanted.keys():
            (FOLDER / name).unlink()
        for name, text in wanted.items():
            (FOLDER / name).write_text(text)
    print(f"{len(wanted)} dashboards are up to date")


if __name__ == "__main__":
    main()
