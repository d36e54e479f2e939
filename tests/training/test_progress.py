"""What is refused, and what is ended, while a run makes progress or none."""

import subprocess
import sys

import pytest

from training.launch import EXIT_STALLED
from training.progress import require_finite

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


def test_a_loss_that_is_no_number_is_a_typed_failure():
    require_finite({"loss": 1.0, "grad_norm": 2.0}, step=1)
    with pytest.raises(Exception, match="loss is nan at step 3") as caught:
        require_finite({"loss": float("nan")}, step=3)
    assert caught.value.reason == "LOSS_NOT_FINITE"
