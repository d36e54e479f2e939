"""Writes the chart's Grafana dashboards from their Python: `python -m tools.build_dashboards`.

With `--check` it writes nothing and fails when a committed file differs from what it would write.
"""

import argparse
import json
import sys
from pathlib import Path

from grafana_foundation_sdk.builders.dashboard import Dashboard as Builder
from grafana_foundation_sdk.cog.encoder import JSONEncoder

from tools.dashboards import alignment, inference, overview, storage, training

FOLDER = Path(__file__).resolve().parent.parent / "charts" / "omnialign" / "dashboards"
BOARDS = {
    "overview": overview,
    "alignment": alignment,
    "training": training,
    "inference": inference,
    "storage": storage,
}


def rendered() -> dict[str, str]:
    """The dashboards as JSON, by file name."""
    return {f"{name}.json": _json(board.build()) for name, board in BOARDS.items()}


def _json(board: Builder) -> str:
    made = board.build()
    for number, panel in enumerate(made.panels or [], start=1):
        panel.id_val = number
    return json.dumps(made, cls=JSONEncoder, indent=1, sort_keys=True) + "\n"


def main() -> None:
    """Writes the files, or checks them."""
    parser = argparse.ArgumentParser(description="Builds the Grafana dashboards of the chart.")
    parser.add_argument("--check", action="store_true", help="write nothing, fail when a file is not up to date")
    wanted, check = rendered(), parser.parse_args().check
    FOLDER.mkdir(parents=True, exist_ok=True)
    present = {path.name: path.read_text() for path in FOLDER.glob("*.json")}
    if check and present != wanted:
        stale = sorted(name for name in wanted.keys() | present.keys() if wanted.get(name) != present.get(name))
        sys.exit(f"Not up to date: {', '.join(stale)}; run python -m tools.build_dashboards.")
    if not check:
        for name in present.keys() - wanted.keys():
            (FOLDER / name).unlink()
        for name, text in wanted.items():
            (FOLDER / name).write_text(text)
    print(f"{len(wanted)} dashboards are up to date")


if __name__ == "__main__":
    main()
