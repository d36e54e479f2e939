"""Runs the benchmarks and writes docs/results/bench.json and bench.md.

The two files hold the newest run of each benchmark: a run with `--only` leaves the others as they were. A benchmark is
a module with `run(settings) -> dict`; whatever it returns is written down as it is, beside the facts about the machine.
"""

import argparse
import importlib
import json
from pathlib import Path
from typing import Any

from benchmarks.results_page import machine_facts, page

NAMES = ("rpc", "data", "loop")
RESULTS = Path(__file__).resolve().parent.parent / "docs" / "results"


def parse_arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", choices=NAMES, action="append", help="run this benchmark alone; may be repeated")
    parser.add_argument("--records", type=int, default=20_000, help="records of the data benchmark (%(default)s)")
    parser.add_argument("--calls", type=int, default=500, help="calls per repeat of the RPC benchmark (%(default)s)")
    parser.add_argument("--repeats", type=int, default=9, help="repeats of each measurement (%(default)s)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the results")
    return parser.parse_args()


def measure(name: str, settings: argparse.Namespace) -> dict[str, Any]:
    """Runs one benchmark. Its module is imported only now, so that one can run without what the others need."""
    module = importlib.import_module(f"benchmarks.{name}")
    result: dict[str, Any] = module.run() if name == "loop" else module.run(settings)
    return {"machine": machine_facts(), "result": result}


def write(path: Path, text: str) -> None:
    """Replaces a file in one step."""
    # A run that is interrupted while it writes must not leave half a page in the repository.
    staged = path.with_suffix(f"{path.suffix}.new")
    staged.write_text(text)
    staged.replace(path)


def main() -> None:
    """Runs what was asked for, and writes after each one: an interrupted run keeps what it measured."""
    settings = parse_arguments()
    settings.results.mkdir(parents=True, exist_ok=True)
    target = settings.results / "bench.json"
    found: dict[str, Any] = json.loads(target.read_text()) if target.exists() else {}
    for name in settings.only or NAMES:
        print(f"benchmark {name} ...", flush=True)
        found[name] = measure(name, settings)
        write(target, json.dumps(found, indent=2, ensure_ascii=False) + "\n")
        write(target.with_suffix(".md"), page(found))
    print(page(found))


if __name__ == "__main__":
    main()
