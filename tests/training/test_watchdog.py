"""A stuck step ends the process and shows where it was stuck."""

import subprocess
import sys

from training.launch import EXIT_STALLED

STUCK = """
import threading
from training.progress import Watchdog
Watchdog(timeout_seconds=0.2).start()
def stuck_here():
    threading.Event().wait()
stuck_here()
"""


def test_a_stuck_step_shows_its_stacks_and_exits():
    ended = subprocess.run([sys.executable, "-c", STUCK], capture_output=True, text=True, timeout=90, check=False)
    assert ended.returncode == EXIT_STALLED
    assert "stuck_here" in ended.stderr
