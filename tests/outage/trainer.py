"""A training program that learns nothing: `python -m tests.outage.trainer METHOD SPEC`.

It takes a while and hands its base model back. A job with the id `waits-...` waits instead until somebody delivers a
model in its name.
"""

import shutil
import signal
import sys
import time
from pathlib import Path

import yaml

WAITS = "waits-"
STEPS, STEP_SECONDS = 10, 0.2
LONGEST_WAIT_SECONDS = 900


def main(spec_path: Path) -> None:
    """Trains."""
    spec = yaml.safe_load(spec_path.read_text())
    if str(spec["job"]).rpartition("/")[2].startswith(WAITS):
        signal.alarm(LONGEST_WAIT_SECONDS)  # should the test die, this ends as well
        signal.pause()
    for _ in range(STEPS):
        time.sleep(STEP_SECONDS)  # stands for work
    staged = Path(spec["output_dir"]) / "staged"
    shutil.copytree(spec["base_model_dir"], staged, dirs_exist_ok=True)
    staged.rename(staged.with_name("model"))


if __name__ == "__main__":
    main(Path(sys.argv[2]))
