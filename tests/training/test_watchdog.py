"""The watchdog ends what is stuck, and leaves a slow checkpoint alone."""

import subprocess
import sys

from training.launch import EXIT_STALLED

WATCHED = """
import threading
from training.watchdog import Phase, Watchdog
clocks = dict.fromkeys(Phase, 60.0) | {Phase.STEP: 0.2}
watchdog = Watchdog(clocks, on_stall=lambda phase, seconds: print(f"stalled in {phase} for {seconds}", flush=True))
watchdog.start(Phase.STEP)
def wait_here(seconds=None):
    threading.Event().wait(seconds)
"""


def ended(lines: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", WATCHED + lines]
    return subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)


def test_a_stuck_step_names_its_phase_shows_its_stacks_and_exits():
    stuck = ended("wait_here()")
    assert stuck.returncode == EXIT_STALLED
    assert "wait_here" in stuck.stderr
    assert stuck.stdout == "stalled in step for 0.2\n"


def test_a_checkpoint_may_take_longer_than_a_step_and_the_next_step_has_a_fresh_clock():
    assert ended("with watchdog.during(Phase.SAVE):\n  wait_here(0.8)\nwatchdog.stop()").returncode == 0
    after = ended("with watchdog.during(Phase.SAVE):\n  wait_here(0.8)\nprint('saved', flush=True)\nwait_here()")
    assert (after.returncode, after.stdout) == (EXIT_STALLED, "saved\nstalled in step for 0.2\n")
